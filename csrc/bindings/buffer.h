#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/row_reader.h"
#include "bindings/row_storage.h"
#include "bindings/tensor_view.h"
#include "core/gather.h"
#include "core/slab.h"

namespace velora {

/// What a buffer is besides its fields.
struct BufferOptions {
  std::uint64_t capacity;
  std::uint64_t seed;
  /// What a step's next value is worth. Buffers that have it return indices and discounts.
  std::optional<float> gamma;
  /// A full buffer drops its oldest row; without it, it refuses new ones.
  bool overwrite;
  /// The CUDA device for rows and batches; nothing for the host.
  std::optional<int> device;
};

/// The native half of ReplayBuffer and RolloutBuffer: rows in, tensors out.
///
/// The GIL is its lock: it is held from the first read of a call to its last write. Every mutation
/// is all or nothing.
class Buffer {
 public:
  /// `fields` are the row's fields and `trees` the pytrees that hold them; `check_type` is called
  /// with each new type of experience and raises for one that lacks a field or has another.
  /// Throws ValueError, MemoryError and DeviceError.
  Buffer(std::vector<Field> fields, const pybind11::dict& trees, const BufferOptions& options,
         pybind11::object check_type);

  /// Appends one experience. Throws ValueError for data that does not fit, BufferError when full.
  void push(pybind11::handle experience);
  /// Appends rows given as attribute -> array with a leading dimension, oldest first. Returns how
  /// many. Throws as push does.
  std::size_t extend(const pybind11::dict& columns);

  std::size_t size() const { return storage_->view().size(kLane); }
  /// Draws distinct rows. Returns the fields, then dones and truncations, then indices and
  /// discounts where gamma is set. Throws ValueError when there are fewer than `batch_size`.
  pybind11::tuple sample(pybind11::handle batch_size);
  /// The same for `count` rows from position `start` on, oldest first.
  pybind11::tuple take(std::size_t start, std::size_t count);
  void clear() { storage_->clear(); }

  std::size_t row_nbytes() const { return storage_->layout().pitch(); }
  std::size_t nbytes() const { return storage_->nbytes(); }

  /// (pushed, draws, rows): with the schema, all that the buffer is.
  pybind11::tuple state();
  /// Throws ValueError when the rows do not fit this buffer.
  void restore(std::uint64_t pushed, std::uint64_t draws, const pybind11::bytes& rows);

 private:
  static constexpr std::uint32_t kLane = 0;

  class ReaderLease;
  /// A batch of `rows` rows that `fill(target)` writes.
  template <typename Fill>
  pybind11::tuple make_batch(std::size_t rows, const Fill& fill);
  void require_room(std::size_t rows) const;
  void require_rows(std::size_t count) const;
  void learn_type(pybind11::handle type);

  std::unique_ptr<RowStorage> storage_;
  BufferOptions options_;
  pybind11::dict trees_;
  pybind11::object check_type_;
  pybind11::object known_type_;
  bool known_type_is_plain_ = false;  // looking up its fields runs no code
  std::vector<TensorSpec> specs_;
  std::vector<std::unique_ptr<RowReader>> idle_readers_;
  std::shared_ptr<SlabPool> slabs_;
  std::vector<Column> columns_;
};

}  // namespace velora
