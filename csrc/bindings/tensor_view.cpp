#include "bindings/tensor_view.h"

#include <cstring>
#include <string>
#include <utility>

#include "bindings/exchange_api.h"
#include "bindings/python_errors.h"
#include "core/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;
PyTypeObject* ndarray_type = nullptr;
PyObject* plain_torch_dispatch = nullptr;

[[noreturn]] void refuse(const char* field, const std::string& got) {
  const char* hint = got == "list" ? "; use torch.tensor(...) or np.array(...)" : "";
  throw ValueError(std::string(field) + ": expected a dense tensor, an array or a number, got " +
                   got + hint);
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

bool is_plain_tensor(PyObject* value) {
  return Py_TYPE(value) == tensor_type || Py_TYPE(value) == parameter_type;
}

bool is_tensor(PyObject* value) {
  return is_plain_tensor(value) || PyType_IsSubtype(Py_TYPE(value), tensor_type) != 0;
}

/// A masked array would lose its mask.
bool is_masked(PyObject* value) { return PyObject_HasAttrString(value, "mask") != 0; }

/// What the buffer protocol gives numbers of.
bool is_array(PyObject* value) {
  if (PyObject_CheckBuffer(value) == 0) return false;
  if (Py_TYPE(value) == ndarray_type) return true;
  return PyBytes_Check(value) == 0 && PyByteArray_Check(value) == 0 && !is_masked(value);
}

/// A subclass that intercepts operations (a fake, functional or distributed tensor) need not have
/// the memory that it shows.
bool intercepts_operations(PyObject* value) {
  if (is_plain_tensor(value)) return false;
  const py::object theirs = py::type::of(py::handle(value)).attr("__torch_dispatch__");
  return theirs.ptr() != plain_torch_dispatch;
}

/// The imaginary part of a conjugate is a view that only says that it is negated, and DLPack does
/// not pass that on. Asking takes longer than the rest of a borrow, so this asks only where the
/// view can be one: every second number of a complex tensor, or a single one.
bool may_be_negated(const ArrayView& view) {
  return view.dtype >= DType::kFloat16 && (view.num_elements() == 1 || !view.is_contiguous());
}

/// The DLPack view of a tensor in one call.
bool borrow_dense(PyObject* tensor, DLTensor* out, std::string* why) {
  if (exchange_api().dltensor_from_py_object_no_sync(tensor, out) == 0) return true;
  *why = take_python_error();
  return false;
}

}  // namespace

void load_array_types() {
  const py::module_ torch = py::module_::import("torch");
  const py::object type = torch.attr("Tensor");
  // All of these live as long as their modules, which are never unloaded.
  tensor_type = reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr());
  py::object parameter = torch.attr("nn").attr("Parameter");
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
  py::object ndarray = py::module_::import("numpy").attr("ndarray");
  ndarray_type = reinterpret_cast<PyTypeObject*>(ndarray.release().ptr());
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
    std::string text = py::str(object.attr("dtype"));
    if (text.starts_with("torch.")) text.erase(0, 6);
    text += " of shape " + std::string(py::str(py::tuple(py::list(object.attr("shape")))));
    if (is_tensor(value)) {
      const std::string device = py::str(object.attr("device"));
      const std::string layout = py::str(object.attr("layout"));
      if (layout != "torch.strided") text += " in layout " + layout;
      if (device != "cpu") text += " on " + device;
    }
    return text;
  } catch (py::error_already_set&) {
    return type_name(value);
  }
}

void BorrowedArray::reset() {
  if (has_buffer_) PyBuffer_Release(&buffer_);
  has_buffer_ = false;
  ran_code_ = false;
  owner_ = py::object();
}

void BorrowedArray::borrow(PyObject* value, const char* field) {
  reset();
  owner_ = py::reinterpret_borrow<py::object>(value);
  if (is_plain_tensor(value)) return borrow_tensor(value, field);
  if (PyFloat_Check(value) != 0 || PyLong_Check(value) != 0) return borrow_number(value, field);
  ran_code_ = Py_TYPE(value) != ndarray_type;
  if (is_tensor(value)) {
    borrow_tensor(value, field);
  } else if (is_array(value)) {
    borrow_buffer(value, field);
  } else if (PyObject_HasAttrString(value, "__dlpack__") != 0 && !is_masked(value)) {
    owner_ = py::module_::import("torch").attr("from_dlpack")(py::handle(value));
    borrow_tensor(owner_.ptr(), field);
  } else {
    refuse(field, describe(value));
  }
}

const std::byte* BorrowedArray::borrow_vector(PyObject* value, DType dtype, std::int64_t length) {
  DLTensor tensor;
  if (length < 2 || !is_plain_tensor(value)) return nullptr;
  if (exchange_api().dltensor_from_py_object_no_sync(value, &tensor) != 0) {
    PyErr_Clear();  // borrow() will say what is wrong
    return nullptr;
  }
  const DLDataType expected = to_dlpack_type(dtype);
  const bool fits = tensor.device.device_type == kDLCPU && tensor.ndim == 1 &&
                    tensor.shape[0] == length && tensor.strides[0] == 1 &&
                    tensor.dtype.code == expected.code && tensor.dtype.bits == expected.bits &&
                    tensor.dtype.lanes == 1 && tensor.data != nullptr;
  if (!fits) return nullptr;
  reset();
  owner_ = py::reinterpret_borrow<py::object>(value);
  view_.data = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
  view_.dtype = dtype;
  view_.ndim = 1;
  view_.shape[0] = length;
  view_.strides[0] = static_cast<std::int64_t>(size_of(dtype));
  return view_.data;
}

std::byte* writable_tensor(PyObject* value, DType dtype, std::span<const std::int64_t> shape) {
  DLTensor tensor;
  if (!is_plain_tensor(value)) return nullptr;
  if (exchange_api().dltensor_from_py_object_no_sync(value, &tensor) != 0) {
    PyErr_Clear();
    return nullptr;
  }
  DType found = DType::kFloat32;
  if (tensor.device.device_type != kDLCPU || !from_dlpack_type(tensor.dtype, &found) ||
      found != dtype || static_cast<std::size_t>(tensor.ndim) != shape.size() ||
      tensor.data == nullptr) {
    return nullptr;
  }
  std::int64_t stride = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    if (tensor.shape[d] != shape[d]) return nullptr;
    if (shape[d] != 1 && tensor.strides[d] != stride) return nullptr;
    stride *= shape[d];
  }
  return static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
}

bool BorrowedArray::still_there() const {
  if (!owner_ || !is_tensor(owner_.ptr())) return true;
  DLTensor tensor;
  if (exchange_api().dltensor_from_py_object_no_sync(owner_.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  const auto* data = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
  bool same = data == view_.data && tensor.ndim == view_.ndim;
  const auto itemsize = static_cast<std::int64_t>(size_of(view_.dtype));
  for (int d = 0; same && d < view_.ndim; ++d) {
    same = tensor.shape[d] == view_.shape[d] && tensor.strides[d] * itemsize == view_.strides[d];
  }
  return same;
}

void BorrowedArray::borrow_number(PyObject* value, const char* field) {
  view_.ndim = 0;
  view_.data = reinterpret_cast<const std::byte*>(&number_);
  if (PyBool_Check(value) != 0) {
    view_.dtype = DType::kBool;
    number_.boolean = value == Py_True;
  } else if (PyFloat_Check(value) != 0) {
    view_.dtype = DType::kFloat64;
    number_.real = PyFloat_AS_DOUBLE(value);
  } else {
    int overflow = 0;
    view_.dtype = DType::kInt64;
    number_.integer = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) return;
    view_.dtype = DType::kUInt64;
    number_.natural = PyLong_AsUnsignedLongLong(value);
    if (PyErr_Occurred() == nullptr) return;
    PyErr_Clear();
    refuse(field, "an int of more than 64 bits");
  }
}

void BorrowedArray::borrow_buffer(PyObject* value, const char* field) {
  if (PyObject_GetBuffer(value, &buffer_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    refuse(field, describe(value) + ": " + take_python_error());
  }
  has_buffer_ = true;
  // numpy gives dates as bytes without strides, though it was asked for them.
  const bool has_layout =
      buffer_.ndim == 0 || (buffer_.shape != nullptr && buffer_.strides != nullptr);
  if (!from_buffer_format(buffer_.format, buffer_.itemsize, &view_.dtype) || !has_layout) {
    refuse(field, describe(value));
  }
  require_few_dimensions(field, buffer_.ndim);
  view_.data = static_cast<const std::byte*>(buffer_.buf);
  view_.ndim = buffer_.ndim;
  for (int d = 0; d < buffer_.ndim; ++d) {
    view_.shape[d] = buffer_.shape[d];
    view_.strides[d] = buffer_.strides[d];
  }
}

void BorrowedArray::borrow_tensor(PyObject* value, const char* field) {
  if (intercepts_operations(value)) refuse(field, std::string(type_name(value)));
  DLTensor tensor;
  std::string why;
  bool dense = borrow_dense(value, &tensor, &why);
  if (dense && tensor.device.device_type != kDLCPU) {
    ran_code_ = true;
    owner_ = py::handle(value).attr("detach")().attr("cpu")();
    value = owner_.ptr();
    dense = borrow_dense(value, &tensor, &why);
  }
  if (!dense || tensor.device.device_type != kDLCPU ||
      !from_dlpack_type(tensor.dtype, &view_.dtype)) {
    refuse(field, describe(value) + (why.empty() ? "" : ": " + why));
  }
  require_few_dimensions(field, tensor.ndim);
  view_.data = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
  view_.ndim = tensor.ndim;
  const auto itemsize = static_cast<std::int64_t>(size_of(view_.dtype));
  for (int d = 0; d < tensor.ndim; ++d) {
    view_.shape[d] = tensor.shape[d];
    view_.strides[d] = tensor.strides[d] * itemsize;
  }
  if (tensor.data == nullptr && view_.num_elements() > 0) {
    refuse(field, describe(value) + " whose memory was given up");
  }
  if (!may_be_negated(view_)) return;
  ran_code_ = true;  // calls of torch let other threads run
  if (py::cast<bool>(py::handle(value).attr("is_neg")())) {
    const py::object resolved = py::handle(value).attr("detach")().attr("resolve_neg")();
    owner_ = resolved;
    borrow_tensor(owner_.ptr(), field);
  }
}

}  // namespace velora
