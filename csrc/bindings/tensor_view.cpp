#include "bindings/tensor_view.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "bindings/exchange_api.h"
#include "bindings/python_errors.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

const char* type_name(PyObject* value) { return Py_TYPE(value)->tp_name; }

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

/// From numpy's number of a type, which stands for a type of C.
bool from_numpy_type(int number, DType* out) {
  constexpr bool kLongIsWide = sizeof(long) == 8;
  static constexpr DType kTypes[] = {DType::kBool,
                                     DType::kInt8,
                                     DType::kUInt8,
                                     DType::kInt16,
                                     DType::kUInt16,
                                     DType::kInt32,
                                     DType::kUInt32,
                                     kLongIsWide ? DType::kInt64 : DType::kInt32,
                                     kLongIsWide ? DType::kUInt64 : DType::kUInt32,
                                     DType::kInt64,
                                     DType::kUInt64,
                                     DType::kFloat32,
                                     DType::kFloat64};
  constexpr int kHalf = 23;
  if (number == kHalf) {
    *out = DType::kFloat16;
    return true;
  }
  if (number < 0 || number >= static_cast<int>(std::size(kTypes))) return false;
  *out = kTypes[number];
  return true;
}

bool view_of_numpy_scalar(PyObject* value, NumberMemory* memory, ArrayView* view) {
  for (const NumpyScalar& scalar : numpy_scalars) {
    if (Py_TYPE(value) != scalar.type) continue;
    view->dtype = scalar.dtype;
    py::detail::npy_api::get().PyArray_ScalarAsCtype_(value, memory);
    return true;
  }
  return false;
}

}  // namespace

bool is_plain_tensor(PyObject* value) {
  return Py_TYPE(value) == tensor_type || Py_TYPE(value) == parameter_type;
}

bool is_tensor(PyObject* value) {
  return is_plain_tensor(value) || PyType_IsSubtype(Py_TYPE(value), tensor_type) != 0;
}

bool is_ndarray(PyObject* value) { return Py_TYPE(value) == ndarray_type; }

bool is_of_numpy(PyObject* value) {
  return PyType_IsSubtype(Py_TYPE(value), ndarray_type) != 0 ||
         PyType_IsSubtype(Py_TYPE(value), generic_type) != 0;
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

bool may_be_negated(const ArrayView& view) {
  return view.dtype >= DType::kFloat16 && (view.num_elements() == 1 || !view.is_contiguous());
}

bool borrow_dense(PyObject* tensor, DLTensor* out) {
  return exchange_api().dltensor_from_py_object_no_sync(tensor, out) == 0;
}

bool view_of_tensor(const DLTensor& tensor, ArrayView* view) {
  if (tensor.ndim > kMaxDims || !from_dlpack_type(tensor.dtype, &view->dtype)) return false;
  view->data = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
  view->ndim = tensor.ndim;
  const auto itemsize = static_cast<std::int64_t>(size_of(view->dtype));
  for (int d = 0; d < tensor.ndim; ++d) {
    view->shape[d] = tensor.shape[d];
    view->strides[d] = tensor.strides[d] * itemsize;
  }
  return tensor.data != nullptr || view->num_elements() == 0;
}

bool view_of_ndarray(PyObject* value, ArrayView* view) {
  const auto array = py::reinterpret_borrow<py::array>(value);
  const py::dtype dtype = array.dtype();
  const char order = dtype.byteorder();
  if ((order != '=' && order != '|') || array.ndim() > kMaxDims ||
      !from_numpy_type(dtype.num(), &view->dtype)) {
    return false;
  }
  view->data = static_cast<const std::byte*>(array.data());
  view->ndim = static_cast<int>(array.ndim());
  for (int d = 0; d < view->ndim; ++d) {
    view->shape[d] = array.shape()[d];
    view->strides[d] = array.strides()[d];
  }
  return true;
}

bool view_of_number(PyObject* value, NumberMemory* memory, ArrayView* view) {
  view->ndim = 0;
  view->data = reinterpret_cast<const std::byte*>(memory);
  if (PyFloat_Check(value) != 0) {
    view->dtype = DType::kFloat64;
    memory->real = PyFloat_AS_DOUBLE(value);
    return true;
  }
  if (PyBool_Check(value) != 0) {
    view->dtype = DType::kBool;
    memory->boolean = value == Py_True;
    return true;
  }
  if (PyLong_Check(value) == 0) return view_of_numpy_scalar(value, memory, view);
  int overflow = 0;
  view->dtype = DType::kInt64;
  memory->integer = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow == 0) return true;
  view->dtype = DType::kUInt64;
  memory->natural = PyLong_AsUnsignedLongLong(value);
  if (PyErr_Occurred() == nullptr) return true;
  PyErr_Clear();
  return false;
}

bool view_on_host(const DLTensor& tensor, ArrayView* view) {
  return tensor.device.device_type == kDLCPU && view_of_tensor(tensor, view);
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

std::string describe(PyObject* value) {
  const py::handle object(value);
  if (PyFloat_Check(value) != 0 || PyLong_Check(value) != 0) {
    return std::string(type_name(value)) + " " + std::string(py::repr(object));
  }
  if (PyObject_HasAttrString(value, "dtype") == 0 || PyObject_HasAttrString(value, "shape") == 0) {
    return type_name(value);
  }
  try {
    const py::object dtype = object.attr("dtype");
    if (dtype.is_none()) return type_name(value);  // of a container
    std::string text = py::str(dtype);
    if (text.starts_with("torch.")) text.erase(0, 6);
    text += " of shape " + std::string(py::str(py::tuple(py::list(object.attr("shape")))));
    if (is_tensor(value)) {
      const std::string device = py::str(object.attr("device"));
      const std::string layout = py::str(object.attr("layout"));
      if (layout != "torch.strided") text += " in layout " + layout;
      if (device != "cpu") text += " on " + device;
      return text;
    }
    const bool is_known = is_ndarray(value) || PyType_IsSubtype(Py_TYPE(value), generic_type) != 0;
    return is_known ? text : std::string(type_name(value)) + ", " + text;
  } catch (py::error_already_set&) {
    return type_name(value);
  }
}

std::string describe_with_hint(PyObject* value) {
  const char* hint = "";
  if (PyList_Check(value) != 0) {
    hint = "; use torch.tensor(...) or np.array(...), or tuple(...) for several arrays";
  } else if (is_labelled(value)) {
    hint = "; use .to_numpy()";
  } else if (type_has(value, "keys")) {
    hint = type_has(value, "to_dict") ? "; use .to_dict()" : "; use dict(...)";
  } else if (type_has(value, "filled")) {
    hint = "; use .filled(...)";
  }
  return describe(value) + hint;
}

bool peek(PyObject* value, NumberMemory* memory, ArrayView* view) {
  if (is_plain_tensor(value)) {
    DLTensor tensor;
    if (borrow_dense(value, &tensor)) {
      return view_on_host(tensor, view) && !may_be_negated(*view);
    }
    PyErr_Clear();
    return false;
  }
  if (Py_TYPE(value) == ndarray_type) return view_of_ndarray(value, view);
  return view_of_number(value, memory, view);
}

std::byte* writable_tensor(PyObject* value, DType dtype, std::span<const std::int64_t> shape,
                           const TorchDevice* device) {
  DLTensor tensor;
  if (!is_plain_tensor(value)) return nullptr;
  if (exchange_api().dltensor_from_py_object_no_sync(value, &tensor) != 0) {
    PyErr_Clear();
    return nullptr;
  }
  DType found = DType::kFloat32;
  const bool is_here =
      device == nullptr ? tensor.device.device_type == kDLCPU : device->holds(tensor);
  if (!is_here || !is_contiguous(tensor) || !from_dlpack_type(tensor.dtype, &found) ||
      found != dtype || static_cast<std::size_t>(tensor.ndim) != shape.size() ||
      tensor.data == nullptr) {
    return nullptr;
  }
  if (!std::equal(shape.begin(), shape.end(), tensor.shape)) return nullptr;
  return static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
}

}  // namespace velora
