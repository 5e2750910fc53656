#include "bindings/native_methods.h"

#include <string>
#include <utility>

#include "bindings/buffer.h"
#include "bindings/python_errors.h"

namespace py = pybind11;

namespace velora {
namespace {

constexpr const char* kCapsule = "velora.Buffer";

Buffer& buffer_in(PyObject* capsule) {
  return *static_cast<Buffer*>(PyCapsule_GetPointer(capsule, kCapsule));
}

/// Calls f(), and turns what it throws into a Python error.
template <typename F>
PyObject* result_or_error(const F& f) {
  try {
    return f();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

/// A required parameter and one that may be missing, which is null then.
struct Signature {
  const char* method;
  const char* text;
  const char* names[2];
  std::size_t max_positional;
};

struct Arguments {
  PyObject* required = nullptr;
  PyObject* optional = nullptr;
};

constexpr Signature kPush = {"push", "(experience, lane=None)", {"experience", "lane"}, 2};
constexpr Signature kSample = {"sample", "(batch_size, *, out=None)", {"batch_size", "out"}, 1};

Arguments read_arguments(const Signature& signature, const CallArguments& call) {
  PyObject* values[2] = {};
  bool known = call.positional <= signature.max_positional;
  for (std::size_t i = 0; known && i < call.positional; ++i) values[i] = call.values[i];
  for (std::size_t i = 0; known && i < call.named(); ++i) {
    const auto is = [&](const char* name) {
      return PyUnicode_CompareWithASCIIString(call.name(i), name) == 0;
    };
    const std::size_t place = is(signature.names[0]) ? 0 : is(signature.names[1]) ? 1 : 2;
    known = place < 2 && values[place] == nullptr;
    if (known) values[place] = call.value(i);
  }
  if (!known || values[0] == nullptr) {
    throw py::type_error(std::string(signature.method) + ": expected " + signature.text +
                         ", got other arguments");
  }
  return {.required = values[0], .optional = values[1]};
}

PyObject* push(PyObject* capsule, PyObject* const* values, Py_ssize_t positional, PyObject* names) {
  return result_or_error([&] {
    const Arguments arguments =
        read_arguments(kPush, {values, static_cast<std::size_t>(positional), names});
    buffer_in(capsule).push(arguments.required, arguments.optional);
    return Py_NewRef(Py_None);
  });
}

PyObject* sample(PyObject* capsule, PyObject* const* values, Py_ssize_t positional,
                 PyObject* names) {
  return result_or_error([&] {
    const Arguments arguments =
        read_arguments(kSample, {values, static_cast<std::size_t>(positional), names});
    const py::handle out = arguments.optional == nullptr ? Py_None : arguments.optional;
    return buffer_in(capsule).sample(arguments.required, out).release().ptr();
  });
}

PyObject* extend(PyObject* capsule, PyObject* const* values, Py_ssize_t positional,
                 PyObject* names) {
  return result_or_error([&] {
    buffer_in(capsule).extend({values, static_cast<std::size_t>(positional), names});
    return Py_NewRef(Py_None);
  });
}

using FastCall = PyObject*(PyObject*, PyObject* const*, Py_ssize_t, PyObject*);

PyMethodDef define(const char* name, FastCall* function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
          METH_FASTCALL | METH_KEYWORDS, doc};
}

// The first line of each is what inspect.signature reads.
PyMethodDef push_definition =
    define("push", push, "push($self, experience, lane=None)\n--\n\nAppends one experience.");
PyMethodDef extend_definition =
    define("extend", extend,
           "extend($self, batch=None, *, lanes=None, **arrays)\n--\n\n"
           "Appends steps, all or none: one of each environment, or k of each.");

PyMethodDef sample_definition =
    define("sample", sample,
           "sample($self, batch_size, *, out=None)\n--\n\n"
           "Draws distinct experiences, each set of them equally likely.");

void let_go(PyObject* capsule) { Py_DECREF(static_cast<PyObject*>(PyCapsule_GetContext(capsule))); }

py::object make_method(PyMethodDef& definition, py::object buffer) {
  const auto capsule = py::reinterpret_steal<py::object>(
      PyCapsule_New(py::cast<Buffer*>(buffer), kCapsule, nullptr));
  if (!capsule || PyCapsule_SetContext(capsule.ptr(), buffer.ptr()) != 0 ||
      PyCapsule_SetDestructor(capsule.ptr(), let_go) != 0) {
    throw py::error_already_set();
  }
  buffer.release();  // the capsule's from here on
  const auto function =
      py::reinterpret_steal<py::object>(PyCFunction_New(&definition, capsule.ptr()));
  if (!function) throw py::error_already_set();
  return function;
}

}  // namespace

py::object make_push_method(py::object buffer) {
  return make_method(push_definition, std::move(buffer));
}

py::object make_extend_method(py::object buffer) {
  return make_method(extend_definition, std::move(buffer));
}

py::object make_sample_method(py::object buffer) {
  return make_method(sample_definition, std::move(buffer));
}

}  // namespace velora
