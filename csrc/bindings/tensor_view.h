#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bindings/torch_device.h"
#include "core/array_view.h"

// The one place that turns Python's arrays into memory and shape. It needs the GIL throughout.

namespace velora {

/// A number read from Python, as memory that an ArrayView can show.
union NumberMemory {
  double real;
  std::int64_t integer;
  std::uint64_t natural;
  bool boolean;
};

/// What nearly every call brings: a plain tensor in host memory, a numpy array or a number. `view`
/// shows it (a number in `memory`) as long as the value is alive and no other code runs: nobody
/// holds on to it, and none ran here. Returns false for whatever takes more, which is for a
/// BorrowedArray.
bool peek(PyObject* value, NumberMemory* memory, ArrayView* view);

/// A Python value as an array: a tensor (through torch's DLPack exchange table), anything with the
/// buffer protocol, __dlpack__ or __array__, or a plain number.
///
/// There are two steps. prepare() runs all code that reading takes, and look() runs none: memory
/// that is looked at stays as it is until other code runs. So a caller prepares all values of a
/// call, and whatever else may run code, before the first look.
class BorrowedArray {
 public:
  BorrowedArray() = default;
  ~BorrowedArray() { reset(); }
  BorrowedArray(const BorrowedArray&) = delete;
  BorrowedArray& operator=(const BorrowedArray&) = delete;
  BorrowedArray(BorrowedArray&& other) = delete;

  /// Holds `value`, or the array that it is turned into: a tensor on another device is copied to
  /// the host. `field` names it in errors. Throws ValueError for what cannot be read as an array in
  /// this process's memory.
  void prepare(PyObject* value, const char* field);
  /// Shows what was prepared as it is now. Runs no code. Throws ValueError where other code made
  /// something of it meanwhile that is no array, or is one that is to be prepared again.
  const ArrayView& look(const char* field);
  void reset();

 private:
  enum class Form : std::uint8_t { kSettled, kTensor, kNdarray };

  bool prepare_buffer(const char* field);
  void prepare_tensor(const char* field);
  void convert(const char* field, const std::string& why);
  void look_at_tensor(const char* field);

  ArrayView view_;
  pybind11::object held_;
  Form form_ = Form::kSettled;  // whose view_ is good as long as it is held
  Py_buffer buffer_{};
  bool has_buffer_ = false;
  NumberMemory number_{};
};

/// The memory of a contiguous tensor with just this dtype and shape, on the host or, where it is
/// not null, on `device`, to be written to. Null for anything else, and for subclasses of
/// torch.Tensor. Runs no other code.
std::byte* writable_tensor(PyObject* value, DType dtype, std::span<const std::int64_t> shape,
                           const TorchDevice* device);

/// The same two steps for a tensor on a device whose numbers nobody has to look at. The first
/// returns what is to be held: `value`, or a tensor of torch's making where that has another dtype
/// or layout; null where `value` is none there, or only the host can tell whether its numbers fit.
pybind11::object prepare_on_device(PyObject* value, DType dtype, const TorchDevice& device);
/// Shows it as it is now. Runs no code. Throws ValueError where it is no such tensor any more.
ArrayView look_on_device(PyObject* tensor, DType dtype, const TorchDevice& device,
                         const char* field);

/// Looks up the types of arrays that are read without asking them. Once, before anything else.
void load_array_types();

/// What kind of value a Python object is, in words, for errors: "float64 of shape (3,)".
std::string describe(PyObject* value);
/// The same, and how to make an array of a container that is none: "list; use np.array(...)".
std::string describe_with_hint(PyObject* value);

}  // namespace velora
