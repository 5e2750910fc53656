#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/array_view.h"
#include "core/slab.h"

// The one place that turns Python's arrays into memory and shape, and memory back into tensors.
// It needs the GIL throughout.

namespace velora {

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
  /// The same, in a fraction of the time, for what nearly every push brings: a tensor that is a
  /// vector of just this dtype and length. Returns its elements, or null for anything else, which
  /// is then not borrowed.
  const std::byte* borrow_vector(PyObject* value, DType dtype, std::int64_t length);
  void reset();
  /// Whether a tensor still shows the memory that was borrowed: code that ran since may have
  /// resized it, or given it other memory.
  bool still_there() const;
  /// Whether the last borrow may have run other code, or let other threads run.
  bool ran_code() const { return ran_code_; }

  const ArrayView& view() const { return view_; }

 private:
  void borrow_number(PyObject* value, const char* field);
  void borrow_buffer(PyObject* value, const char* field);
  void borrow_tensor(PyObject* value, const char* field);

  ArrayView view_;
  pybind11::object owner_;
  Py_buffer buffer_{};
  bool has_buffer_ = false;
  bool ran_code_ = false;
  union {
    double real;
    std::int64_t integer;
    std::uint64_t natural;
    bool boolean;
  } number_{};
};

/// What kind of value a Python object is, in words, for errors: "float64 of shape (3,)".
std::string describe(PyObject* value);

/// One tensor of a batch: an element type, the shape of one row, and its place in a batch.
struct TensorSpec {
  DType dtype;
  std::vector<std::int64_t> row_shape;
  std::size_t row_bytes;
  bool each_step = true;  // in a batch of sequences; otherwise one row for each sequence
};

/// How many rows a batch has, or how many sequences of how many steps.
struct BatchExtent {
  std::size_t rows;
  std::size_t steps = 1;
  bool is_sequences = false;
};

/// The memory of all tensors of one batch, and the tensors that look into it.
///
/// The DLPack headers lie in the slab itself, so a batch costs no allocation when one was released
/// before. For a batch on a device the slab holds the headers alone, and one piece of memory from
/// torch's allocator holds the rest.
class BatchTensors {
 public:
  /// Takes a slab with room for all rows of each spec. `specs` must outlive this object.
  /// `device` is a CUDA device, or nothing for the host. Throws MemoryError.
  BatchTensors(SlabPool& pool, const std::vector<TensorSpec>& specs, BatchExtent extent,
               std::optional<int> device);
  ~BatchTensors() { slab_->release(); }
  BatchTensors(const BatchTensors&) = delete;
  BatchTensors& operator=(const BatchTensors&) = delete;

  /// Where the i-th part lies: in host memory, or on the device.
  std::byte* data(std::size_t i) const { return memory_ + offsets_[i]; }
  /// A new torch.Tensor (rows, *row_shape), or (rows, steps, *row_shape), over the i-th part. Call
  /// once for each part.
  pybind11::object tensor(std::size_t i);

 private:
  const std::vector<TensorSpec>& specs_;
  BatchExtent extent_;
  std::optional<int> device_;
  Slab* slab_;
  std::byte* memory_;
  std::vector<std::size_t> offsets_;
};

/// The stream on which torch queues the calling thread's work for a CUDA device.
void* current_stream(int device);

/// Looks up torch's exchange table. Throws ImportError when torch does not offer version 1 of it.
void load_exchange_api();

}  // namespace velora
