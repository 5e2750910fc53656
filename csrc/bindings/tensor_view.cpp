#include "bindings/tensor_view.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <iterator>
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

bool is_plain_tensor(PyObject* value) {
  return Py_TYPE(value) == tensor_type || Py_TYPE(value) == parameter_type;
}

bool is_tensor(PyObject* value) {
  return is_plain_tensor(value) || PyType_IsSubtype(Py_TYPE(value), tensor_type) != 0;
}

/// A masked array would lose its mask.
bool is_masked(PyObject* value) { return PyObject_HasAttrString(value, "mask") != 0; }

/// What the buffer protocol gives numbers of.
bool shows_numbers(PyObject* value) {
  if (PyObject_CheckBuffer(value) == 0) return false;
  return PyBytes_Check(value) == 0 && PyByteArray_Check(value) == 0 && !is_masked(value);
}

bool type_has(PyObject* value, const char* name) {
  return PyObject_HasAttrString(reinterpret_cast<PyObject*>(Py_TYPE(value)), name) != 0;
}

/// What knows more of its numbers than an array does, such as labels and which are missing, and
/// makes an array of them when it is asked: pandas and its like.
bool is_labelled(PyObject* value) { return type_has(value, "to_numpy"); }

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

/// The DLPack view of a tensor in one call. Where torch refuses it, that is the Python error.
bool borrow_dense(PyObject* tensor, DLTensor* out) {
  return exchange_api().dltensor_from_py_object_no_sync(tensor, out) == 0;
}

/// A tensor of a dtype that there is and few enough dimensions.
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

/// An array of just numpy's own type, in native byte order.
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

bool view_of_numpy_scalar(PyObject* value, NumberMemory* memory, ArrayView* view) {
  for (const NumpyScalar& scalar : numpy_scalars) {
    if (Py_TYPE(value) != scalar.type) continue;
    view->dtype = scalar.dtype;
    py::detail::npy_api::get().PyArray_ScalarAsCtype_(value, memory);
    return true;
  }
  return false;
}

/// A number of Python, of 64 bits at most, or of numpy.
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

/// A tensor in host memory.
bool view_on_host(const DLTensor& tensor, ArrayView* view) {
  return tensor.device.device_type == kDLCPU && view_of_tensor(tensor, view);
}

bool same_memory(const ArrayView& a, const ArrayView& b) {
  return a.data == b.data && a.dtype == b.dtype && a.ndim == b.ndim &&
         std::equal(a.shape, a.shape + a.ndim, b.shape) &&
         std::equal(a.strides, a.strides + a.ndim, b.strides);
}

}  // namespace

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
    const bool is_numpys =
        Py_TYPE(value) == ndarray_type || PyType_IsSubtype(Py_TYPE(value), generic_type) != 0;
    return is_numpys ? text : std::string(type_name(value)) + ", " + text;
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

namespace {

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

}  // namespace

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

void BorrowedArray::reset() {
  if (has_buffer_) PyBuffer_Release(&buffer_);
  has_buffer_ = false;
  form_ = Form::kSettled;
  view_ = ArrayView();
  held_ = py::object();
}

void BorrowedArray::prepare(PyObject* value, const char* field) {
  reset();
  held_ = py::reinterpret_borrow<py::object>(value);
  if (is_tensor(value)) return prepare_tensor(field);
  if (Py_TYPE(value) == ndarray_type && view_of_ndarray(value, &view_)) {
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

namespace {

/// Whether every number of one dtype is one of the other, so that nobody need look at them. A flag
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

/// Returns false for a value that has no such buffer, or none of numbers; then there can be a
/// Python error.
bool BorrowedArray::prepare_buffer(const char* field) {
  if (PyObject_GetBuffer(held_.ptr(), &buffer_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) return false;
  has_buffer_ = true;
  // numpy gives dates as bytes without strides, though it was asked for them.
  const bool has_layout =
      buffer_.ndim == 0 || (buffer_.shape != nullptr && buffer_.strides != nullptr);
  if (!has_layout || !from_buffer_format(buffer_.format, buffer_.itemsize, &view_.dtype)) {
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

namespace {

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

/// `why` says what the buffer protocol had against the value.
void BorrowedArray::convert(const char* field, const std::string& why) {
  PyObject* const value = held_.ptr();
  const bool is_numpys = PyType_IsSubtype(Py_TYPE(value), ndarray_type) != 0 ||
                         PyType_IsSubtype(Py_TYPE(value), generic_type) != 0;
  if (is_numpys || is_masked(value)) refuse(field, describe_with_hint(value) + why);
  if (type_has(value, "__dlpack__")) {
    held_ = call_on(py::module_::import("torch").attr("from_dlpack"), value, field);
    return prepare_tensor(field);
  }
  if (!type_has(value, "__array__") || is_labelled(value)) {
    refuse(field, describe_with_hint(value) + why);
  }
  const py::object array = call_on(py::module_::import("numpy").attr("asarray"), value, field);
  if (Py_TYPE(array.ptr()) != ndarray_type || !view_of_ndarray(array.ptr(), &view_)) {
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

}  // namespace velora
