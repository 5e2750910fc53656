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

/// A Python value borrowed as an array: a tensor (through torch's DLPack exchange table), anything
/// with the buffer protocol or __dlpack__, or a plain number.
///
/// Keeps the value alive, and its memory in place, until it is destroyed or borrows another.
class BorrowedArray {
 public:
  BorrowedArray() = default;
  ~BorrowedArray() { reset(); }
  BorrowedArray(const BorrowedArray&) = delete;
  BorrowedArray& operator=(const BorrowedArray&) = delete;
  BorrowedArray(BorrowedArray&& other) = delete;

  /// Takes a new reference to `value`. `field` names it in errors.
  /// Throws ValueError for what cannot be read as an array in this process's memory. A tensor on
  /// another device is copied to the host first.
  void borrow(PyObject* value, const char* field);
  void reset();
  /// Whether a tensor or a numpy array still shows the memory that was borrowed: code that ran
  /// since may have resized it, or given it other memory.
  bool still_there() const;
  /// Whether the last borrow may have run other code, or let other threads run.
  bool ran_code() const { return ran_code_; }

  const ArrayView& view() const { return view_; }
  /// What is kept alive.
  PyObject* owner() const { return owner_.ptr(); }

 private:
  void borrow_buffer(PyObject* value, const char* field);
  void borrow_tensor(PyObject* value, const char* field);

  ArrayView view_;
  pybind11::object owner_;
  Py_buffer buffer_{};
  bool has_buffer_ = false;
  bool ran_code_ = false;
  NumberMemory number_{};
};

/// The memory of a contiguous tensor with just this dtype and shape, on the host or, where it is
/// not null, on `device`, to be written to. Null for anything else, and for subclasses of
/// torch.Tensor. Runs no other code.
std::byte* writable_tensor(PyObject* value, DType dtype, std::span<const std::int64_t> shape,
                           const TorchDevice* device);

/// The memory of a tensor on a device as it is stored. Null where value is none, or where only the
/// host can tell whether its numbers fit. Runs code of torch where it has another dtype or layout,
/// and then `value` is another tensor, which is to be kept. `shape` is that of the tensor.
const std::byte* device_tensor(pybind11::object& value, DType dtype, const TorchDevice& device,
                               std::vector<std::int64_t>& shape);

/// The memory of any tensor on a device; null where it is none there. Runs no other code.
const std::byte* device_memory(PyObject* value, const TorchDevice& device);

/// Looks up the types of arrays that are read without asking them. Once, before anything else.
void load_array_types();

/// What kind of value a Python object is, in words, for errors: "float64 of shape (3,)".
std::string describe(PyObject* value);

}  // namespace velora
