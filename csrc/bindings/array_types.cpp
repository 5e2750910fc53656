#include "bindings/array_types.h"

#include <pybind11/numpy.h>

namespace py = pybind11;

namespace velora {
namespace {

PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;
PyTypeObject* ndarray_type = nullptr;
PyTypeObject* generic_type = nullptr;
/// numpy's numbers that are no Python floats, by their types: none runs code when it is read.
struct NumpyScalar {
  const char* name;
  DType dtype;
  PyTypeObject* type;
};
NumpyScalar numpy_scalars[] = {
    {"bool_", DType::kBool, nullptr},     {"float32", DType::kFloat32, nullptr},
    {"int64", DType::kInt64, nullptr},    {"int32", DType::kInt32, nullptr},
    {"uint8", DType::kUInt8, nullptr},    {"int8", DType::kInt8, nullptr},
    {"int16", DType::kInt16, nullptr},    {"uint16", DType::kUInt16, nullptr},
    {"uint32", DType::kUInt32, nullptr},  {"uint64", DType::kUInt64, nullptr},
    {"float16", DType::kFloat16, nullptr}};
PyObject* plain_torch_dispatch = nullptr;

}  // namespace

bool is_plain_tensor(PyObject* value) {
  return Py_TYPE(value) == tensor_type || Py_TYPE(value) == parameter_type;
}

bool is_tensor(PyObject* value) {
  return is_plain_tensor(value) || PyType_IsSubtype(Py_TYPE(value), tensor_type) != 0;
}

bool is_ndarray(PyObject* value) { return Py_TYPE(value) == ndarray_type; }

bool is_numpy_scalar(PyObject* value) {
  return PyType_IsSubtype(Py_TYPE(value), generic_type) != 0;
}

bool is_of_numpy(PyObject* value) {
  return PyType_IsSubtype(Py_TYPE(value), ndarray_type) != 0 || is_numpy_scalar(value);
}

bool type_has(PyObject* value, const char* name) {
  return PyObject_HasAttrString(reinterpret_cast<PyObject*>(Py_TYPE(value)), name) != 0;
}

bool is_labelled(PyObject* value) { return type_has(value, "to_numpy"); }

bool intercepts_operations(PyObject* value) {
  if (is_plain_tensor(value)) return false;
  const py::object theirs = py::type::of(py::handle(value)).attr("__torch_dispatch__");
  return theirs.ptr() != plain_torch_dispatch;
}

bool is_number_of_numpy(PyObject* value, DType* dtype) {
  for (const NumpyScalar& scalar : numpy_scalars) {
    if (Py_TYPE(value) != scalar.type) continue;
    *dtype = scalar.dtype;
    return true;
  }
  return false;
}

void load_array_types() {
  const py::module_ torch = py::module_::import("torch");
  const py::object type = torch.attr("Tensor");
  // All of these live as long as their modules, which are never unloaded.
  tensor_type = reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr());
  py::object parameter = torch.attr("nn").attr("Parameter");
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
  const py::module_ numpy = py::module_::import("numpy");
  py::object ndarray = numpy.attr("ndarray");
  ndarray_type = reinterpret_cast<PyTypeObject*>(ndarray.release().ptr());
  py::object generic = numpy.attr("generic");
  generic_type = reinterpret_cast<PyTypeObject*>(generic.release().ptr());
  py::detail::npy_api::get();  // imports more of numpy, which is not to happen while one reads
  for (NumpyScalar& scalar : numpy_scalars) {
    py::object scalar_type = numpy.attr(scalar.name);
    scalar.type = reinterpret_cast<PyTypeObject*>(scalar_type.release().ptr());
  }
  plain_torch_dispatch = py::object(type.attr("__torch_dispatch__")).release().ptr();
}

}  // namespace velora
