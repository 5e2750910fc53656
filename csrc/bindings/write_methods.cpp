#include "bindings/write_methods.h"

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
PyObject* none_or_error(const F& f) {
  try {
    f();
    Py_RETURN_NONE;
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

struct PushArguments {
  PyObject* experience = nullptr;
  PyObject* lane = nullptr;
};

PushArguments read_push_arguments(const CallArguments& call) {
  PyObject* values[2] = {};  // experience, lane
  bool known = call.positional <= 2;
  for (std::size_t i = 0; known && i < call.positional; ++i) values[i] = call.values[i];
  for (std::size_t i = 0; known && i < call.named(); ++i) {
    const int place = PyUnicode_CompareWithASCIIString(call.name(i), "experience") == 0 ? 0
                      : PyUnicode_CompareWithASCIIString(call.name(i), "lane") == 0     ? 1
                                                                                        : 2;
    known = place < 2 && values[place] == nullptr;
    if (known) values[place] = call.value(i);
  }
  if (!known || values[0] == nullptr) {
    throw py::type_error("push: expected (experience, lane=None), got other arguments");
  }
  return {.experience = values[0], .lane = values[1]};
}

PyObject* push(PyObject* capsule, PyObject* const* values, Py_ssize_t positional, PyObject* names) {
  return none_or_error([&] {
    const PushArguments arguments =
        read_push_arguments({values, static_cast<std::size_t>(positional), names});
    buffer_in(capsule).push(arguments.experience, arguments.lane);
  });
}

PyObject* extend(PyObject* capsule, PyObject* const* values, Py_ssize_t positional,
                 PyObject* names) {
  return none_or_error(
      [&] { buffer_in(capsule).extend({values, static_cast<std::size_t>(positional), names}); });
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

}  // namespace velora
