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

/// A required parameter, and others that may be missing.
struct Signature {
  static constexpr std::size_t kMost = 3;

  const char* method;
  const char* text;
  std::size_t num_names;
  const char* names[kMost];
  std::size_t max_positional;
};

/// In the order of the names; null where one is missing.
struct Arguments {
  PyObject* values[Signature::kMost] = {};

  PyObject* or_none(std::size_t i) const { return values[i] == nullptr ? Py_None : values[i]; }
};

constexpr Signature kPush = {
    "push", "(experience, lane=None, *, priority=None)", 3, {"experience", "lane", "priority"}, 2};
constexpr Signature kSample = {
    "sample", "(batch_size, *, out=None, replace=None)", 3, {"batch_size", "out", "replace"}, 1};

Arguments read_arguments(const Signature& signature, const CallArguments& call) {
  Arguments arguments;
  PyObject** const values = arguments.values;
  bool known = call.positional <= signature.max_positional;
  for (std::size_t i = 0; known && i < call.positional; ++i) values[i] = call.values[i];
  for (std::size_t i = 0; known && i < call.named(); ++i) {
    std::size_t position = 0;
    while (position < signature.num_names &&
           PyUnicode_CompareWithASCIIString(call.name(i), signature.names[position]) != 0) {
      ++position;
    }
    known = position < signature.num_names && values[position] == nullptr;
    if (known) values[position] = call.value(i);
  }
  if (!known || values[0] == nullptr) {
    throw py::type_error(std::string(signature.method) + ": expected " + signature.text +
                         ", got other arguments");
  }
  return arguments;
}

py::object push(Buffer& buffer, const CallArguments& call) {
  const Arguments arguments = read_arguments(kPush, call);
  buffer.push(arguments.values[0], arguments.values[1], arguments.values[2]);
  return py::none();
}

py::object extend(Buffer& buffer, const CallArguments& call) {
  buffer.extend(call);
  return py::none();
}

py::object sample(Buffer& buffer, const CallArguments& call) {
  const Arguments arguments = read_arguments(kSample, call);
  return buffer.sample(arguments.values[0], arguments.or_none(1), arguments.or_none(2));
}

/// Called by Python for each of these methods; turns C++ exceptions into Python errors.
template <py::object (*kMethod)(Buffer&, const CallArguments&)>
PyObject* enter(PyObject* capsule, PyObject* const* values, Py_ssize_t positional,
                PyObject* names) {
  try {
    const CallArguments call = {values, static_cast<std::size_t>(positional), names};
    return kMethod(buffer_in(capsule), call).release().ptr();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

using FastCall = PyObject*(PyObject*, PyObject* const*, Py_ssize_t, PyObject*);

PyMethodDef define(const char* name, FastCall* function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
          METH_FASTCALL | METH_KEYWORDS, doc};
}

// The first line of each is what inspect.signature reads.
PyMethodDef push_definition =
    define("push", enter<push>,
           "push($self, experience, lane=None, *, priority=None)\n--\n\nAppends one experience.");
PyMethodDef extend_definition =
    define("extend", enter<extend>,
           "extend($self, batch=None, *, lanes=None, priorities=None, **arrays)\n--\n\n"
           "Appends steps, all or none: one of each environment, or k of each.");
PyMethodDef sample_definition =
    define("sample", enter<sample>,
           "sample($self, batch_size, *, out=None, replace=None)\n--\n\n"
           "Draws experiences.");

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
