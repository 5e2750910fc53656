#include "bindings/tensor_view.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <iterator>

#include "bindings/array_types.h"
#include "bindings/exchange_api.h"

namespace py = pybind11;

namespace velora {
namespace {

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

}  // namespace

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
  if (PyLong_Check(value) == 0) {
    if (!is_number_of_numpy(value, &view->dtype)) return false;
    py::detail::npy_api::get().PyArray_ScalarAsCtype_(value, memory);
    return true;
  }
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

bool peek(PyObject* value, NumberMemory* memory, ArrayView* view) {
  if (is_plain_tensor(value)) {
    DLTensor tensor;
    if (borrow_dense(value, &tensor)) {
      return view_on_host(tensor, view) && !may_be_negated(*view);
    }
    PyErr_Clear();
    return false;
  }
  if (is_ndarray(value)) return view_of_ndarray(value, view);
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
