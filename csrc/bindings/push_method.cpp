#include "bindings/push_method.h"

#include "bindings/buffer.h"
#include "bindings/python_errors.h"

namespace py = pybind11;

namespace velora {
namespace {

constexpr const char* kCapsule = "velora.Buffer";

/// push(experience, lane=None), with arguments as METH_FASTCALL | METH_KEYWORDS hands them over.
PyObject* push(PyObject* capsule, PyObject* const* arguments, Py_ssize_t positional,
               PyObject* keywords) {
  try {
    const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    PyObject* values[2] = {};  // experience, lane
    for (Py_ssize_t i = 0; i < positional && i < 2; ++i) values[i] = arguments[i];
    bool known = positional <= 2;
    for (Py_ssize_t i = 0; i < named; ++i) {
      PyObject* name = PyTuple_GET_ITEM(keywords, i);
      const int place = PyUnicode_CompareWithASCIIString(name, "experience") == 0 ? 0
                        : PyUnicode_CompareWithASCIIString(name, "lane") == 0     ? 1
                                                                                  : 2;
      known = known && place < 2 && values[place] == nullptr;
      if (known) values[place] = arguments[positional + i];
    }
    if (!known || values[0] == nullptr) {
      throw py::type_error("push: expected (experience, lane=None), got other arguments");
    }
    static_cast<Buffer*>(PyCapsule_GetPointer(capsule, kCapsule))->push(values[0], values[1]);
    Py_RETURN_NONE;
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

PyMethodDef push_definition = {"push",
                               reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(push)),
                               METH_FASTCALL | METH_KEYWORDS, "Appends one experience."};

void let_go(PyObject* capsule) { Py_DECREF(static_cast<PyObject*>(PyCapsule_GetContext(capsule))); }

}  // namespace

py::object make_push_method(py::object buffer) {
  const auto capsule = py::reinterpret_steal<py::object>(
      PyCapsule_New(py::cast<Buffer*>(buffer), kCapsule, nullptr));
  if (!capsule || PyCapsule_SetContext(capsule.ptr(), buffer.ptr()) != 0 ||
      PyCapsule_SetDestructor(capsule.ptr(), let_go) != 0) {
    throw py::error_already_set();
  }
  buffer.release();  // the capsule's from here on
  const auto function =
      py::reinterpret_steal<py::object>(PyCFunction_New(&push_definition, capsule.ptr()));
  if (!function) throw py::error_already_set();
  return function;
}

}  // namespace velora
