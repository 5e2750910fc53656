#include "bindings/borrowed_array.h"

#include <algorithm>
#include <string>

#include "bindings/array_types.h"
#include "bindings/describe.h"
#include "bindings/exchange_api.h"
#include "bindings/python_errors.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

[[noreturn]] void refuse(const char* field, const std::string& got) {
  throw ValueError(std::string(field) + ": expected a dense tensor, an array or a number, got " +
                   got);
}

[[noreturn]] void refuse_changed(const char* field) {
  throw ValueError(std::string(field) +
                   ": expected an array that stays as it is while it is read, got one that other "
                   "code changed");
}

void require_few_dimensions(const char* field, int ndim) {
  if (ndim <= kMaxDims) return;
  throw ValueError(std::string(field) + ": expected at most " + std::to_string(kMaxRowDims) +
                   " dimensions, got " + std::to_string(ndim));
}

const char* type_name(PyObject* value) { return Py_TYPE(value)->tp_name; }

/// From a format of the struct module, native byte order only.
bool from_buffer_format(const char* format, py::ssize_t itemsize, DType* out) {
  if (format == nullptr) format = "B";
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  if (format[0] == '\0' || format[1] != '\0') return false;
  const auto sized = [&](DType one, DType two, DType four, DType eight) {
    *out = itemsize == 1 ? one : itemsize == 2 ? two : itemsize == 4 ? four : eight;
    return itemsize == 1 || itemsize == 2 || itemsize == 4 || itemsize == 8;
  };
  switch (*format) {
    case '?':
      *out = DType::kBool;
      return itemsize == 1;
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
    case 'N':
      return sized(DType::kUInt8, DType::kUInt16, DType::kUInt32, DType::kUInt64);
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
    case 'n':
      return sized(DType::kInt8, DType::kInt16, DType::kInt32, DType::kInt64);
    case 'e':
    case 'f':
    case 'd':
      return itemsize != 1 &&
             sized(DType::kFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64);
    default:
      return false;
  }
}

/// A masked array would lose its mask.
bool is_masked(PyObject* value) { return PyObject_HasAttrString(value, "mask") != 0; }

/// Whether the buffer protocol shows numbers.
bool shows_numbers(PyObject* value) {
  if (PyObject_CheckBuffer(value) == 0) return false;
  return PyBytes_Check(value) == 0 && PyByteArray_Check(value) == 0 && !is_masked(value);
}

bool same_memory(const ArrayView& a, const ArrayView& b) {
  return a.data == b.data && a.dtype == b.dtype && a.ndim == b.ndim &&
         std::equal(a.shape, a.shape + a.ndim, b.shape) &&
         std::equal(a.strides, a.strides + a.ndim, b.strides);
}

/// Says why a tensor cannot be read. `tensor` is null where torch has just refused to export it.
[[noreturn]] void refuse_tensor(PyObject* value, const char* field, const DLTensor* tensor) {
  if (tensor == nullptr) {
    const std::string why = take_python_error();
    refuse(field, describe(value) + ": " + why);
  }
  ArrayView view;
  if (tensor->device.device_type != kDLCPU || !from_dlpack_type(tensor->dtype, &view.dtype)) {
    refuse(field, describe(value));
  }
  require_few_dimensions(field, tensor->ndim);
  refuse(field, describe(value) + " whose memory was given up");
}

/// Has torch or numpy make an array of a value. Why they refuse goes into the error.
py::object call_on(const py::object& function, PyObject* value, const char* field) {
  auto made = py::reinterpret_steal<py::object>(PyObject_CallOneArg(function.ptr(), value));
  if (made) return made;
  const bool is_refusal = PyErr_ExceptionMatches(PyExc_Exception) != 0 &&
                          PyErr_ExceptionMatches(PyExc_MemoryError) == 0;
  if (!is_refusal) throw py::error_already_set();
  const std::string why = take_python_error();
  refuse(field, describe(value) + ": " + why);
}

}  // namespace

void BorrowedArray::reset() {
  if (form_ == Form::kBuffer) PyBuffer_Release(&buffer_);
  form_ = Form::kNumber;
  view_ = ArrayView();
  held_ = py::object();
}

void BorrowedArray::prepare(PyObject* value, const char* field) {
  reset();
  held_ = py::reinterpret_borrow<py::object>(value);
  if (is_tensor(value)) return prepare_tensor(field);
  if (is_ndarray(value) && view_of_ndarray(value, &view_)) {
    form_ = Form::kNdarray;
    return;
  }
  if (view_of_number(value, &number_, &view_)) return;
  if (PyLong_Check(value) != 0) refuse(field, "an int of more than 64 bits");
  std::string why;
  if (shows_numbers(value)) {
    if (prepare_buffer(field)) return;
    if (PyErr_Occurred() != nullptr) why = ": " + take_python_error();
  }
  convert(field, why);
}

const ArrayView& BorrowedArray::look(const char* field) {
  if (form_ == Form::kTensor) look_at_tensor(field);
  if (form_ == Form::kNdarray && !view_of_ndarray(held_.ptr(), &view_)) refuse_changed(field);
  return view_;
}

/// Returns false for a value that has no such buffer, or none of numbers; then there can be a
/// Python error.
bool BorrowedArray::prepare_buffer(const char* field) {
  if (PyObject_GetBuffer(held_.ptr(), &buffer_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) return false;
  form_ = Form::kBuffer;
  // numpy gives dates as bytes without strides, though it was asked for them.
  const bool has_layout =
      buffer_.ndim == 0 || (buffer_.shape != nullptr && buffer_.strides != nullptr);
  if (!has_layout || !from_buffer_format(buffer_.format, buffer_.itemsize, &view_.dtype)) {
    PyBuffer_Release(&buffer_);
    form_ = Form::kNumber;
    return false;
  }
  require_few_dimensions(field, buffer_.ndim);
  view_.data = static_cast<const std::byte*>(buffer_.buf);
  view_.ndim = buffer_.ndim;
  for (int d = 0; d < buffer_.ndim; ++d) {
    view_.shape[d] = buffer_.shape[d];
    view_.strides[d] = buffer_.strides[d];
  }
  return true;
}

/// `why` says what the buffer protocol had against the value.
void BorrowedArray::convert(const char* field, const std::string& why) {
  PyObject* const value = held_.ptr();
  if (is_of_numpy(value) || is_masked(value)) refuse(field, describe_with_hint(value) + why);
  if (type_has(value, "__dlpack__")) {
    held_ = call_on(py::module_::import("torch").attr("from_dlpack"), value, field);
    return prepare_tensor(field);
  }
  if (!type_has(value, "__array__") || is_labelled(value)) {
    refuse(field, describe_with_hint(value) + why);
  }
  const py::object array = call_on(py::module_::import("numpy").attr("asarray"), value, field);
  if (!is_ndarray(array.ptr()) || !view_of_ndarray(array.ptr(), &view_)) {
    refuse(field, std::string(type_name(value)) + " whose __array__ is " + describe(array.ptr()));
  }
  held_ = array;
  form_ = Form::kNdarray;
}

void BorrowedArray::prepare_tensor(const char* field) {
  form_ = Form::kTensor;
  const auto require_own_memory = [&] {
    PyObject* const tensor = held_.ptr();
    if (!is_tensor(tensor) || intercepts_operations(tensor)) refuse(field, type_name(tensor));
  };
  require_own_memory();
  DLTensor tensor;
  ArrayView view;
  if (!borrow_dense(held_.ptr(), &tensor)) refuse_tensor(held_.ptr(), field, nullptr);
  if (tensor.device.device_type != kDLCPU) {
    held_ = held_.attr("detach")().attr("cpu")();
  } else if (view_of_tensor(tensor, &view) && may_be_negated(view)) {
    held_ = held_.attr("resolve_neg")();  // itself, where it is not
  } else {
    return;
  }
  require_own_memory();  // a subclass or a mode can have answered
  if (!borrow_dense(held_.ptr(), &tensor)) refuse_tensor(held_.ptr(), field, nullptr);
  view_of_tensor(tensor, &view_);  // the memory of which that is known
}

void BorrowedArray::look_at_tensor(const char* field) {
  DLTensor tensor;
  ArrayView now;
  if (!borrow_dense(held_.ptr(), &tensor)) refuse_tensor(held_.ptr(), field, nullptr);
  if (!view_on_host(tensor, &now)) refuse_tensor(held_.ptr(), field, &tensor);
  if (may_be_negated(now) && !same_memory(now, view_)) refuse_changed(field);
  view_ = now;
}

namespace {

/// Whether every number of one dtype is one of the other, so that no check is needed. A flag
/// is set where a number is not zero.
bool converts_unseen(DType from, DType to) {
  if (from == to || to == DType::kBool) return true;
  if (to != DType::kFloat32) return false;
  return from == DType::kFloat16 || from == DType::kBFloat16 || size_of(from) == 1;
}

/// Of a tensor there.
bool view_on(const TorchDevice& device, const DLTensor& tensor, ArrayView* view) {
  return device.holds(tensor) && view_of_tensor(tensor, view);
}

}  // namespace

py::object prepare_on_device(PyObject* value, DType dtype, const TorchDevice& device) {
  auto held = py::reinterpret_borrow<py::object>(value);
  DLTensor tensor;
  ArrayView view;
  if (!is_plain_tensor(value)) return {};
  if (!borrow_dense(value, &tensor)) {
    PyErr_Clear();
    return {};
  }
  if (!view_on(device, tensor, &view) || !converts_unseen(view.dtype, dtype)) return {};
  const bool is_stored_alike = view.dtype == dtype && view.is_contiguous();
  if (is_stored_alike && !may_be_negated(view)) return held;
  held = held.attr("resolve_neg")();
  if (is_stored_alike) return held;
  const py::object torch_dtype = py::module_::import("torch").attr(name_of(dtype));
  return held.attr("detach")().attr("to")(torch_dtype).attr("contiguous")();
}

ArrayView look_on_device(PyObject* tensor, DType dtype, const TorchDevice& device,
                         const char* field) {
  DLTensor borrowed;
  ArrayView view;
  const bool is_there = is_plain_tensor(tensor) && borrow_dense(tensor, &borrowed) &&
                        view_on(device, borrowed, &view);
  PyErr_Clear();
  if (!is_there || view.dtype != dtype || !view.is_contiguous()) refuse_changed(field);
  return view;
}

}  // namespace velora
