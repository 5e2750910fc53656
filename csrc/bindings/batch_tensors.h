#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bindings/torch_device.h"
#include "core/batch/plan.h"
#include "core/memory/slab.h"

namespace velora {

/// How many rows a batch has, or how many sequences of how many steps.
struct BatchExtent {
  std::size_t rows;
  std::size_t steps = 1;
  bool is_sequences = false;
};

/// How many rows a batch has of one of its tensors.
inline std::size_t num_rows(const TensorSpec& spec, BatchExtent extent) {
  return extent.rows * (spec.each_step ? extent.steps : 1);
}

/// Where the parts of a batch begin, each aligned, in one piece of memory.
struct BatchLayout {
  std::vector<std::size_t> offsets;
  std::size_t nbytes;

  /// Where the parts lie in memory that begins at `base`.
  std::vector<std::byte*> addresses(std::byte* base) const {
    std::vector<std::byte*> parts;
    parts.reserve(offsets.size());
    for (const std::size_t offset : offsets) parts.push_back(base + offset);
    return parts;
  }
};

/// Throws MemoryError where no memory is large enough.
BatchLayout lay_out(const std::vector<TensorSpec>& specs, BatchExtent extent);

/// The memory of all tensors of one batch, and the tensors that look into it.
///
/// Small batches have one slab: a tensor that is kept keeps all of it. In a batch of kLargeBatch
/// bytes or more each part of kLargePart or more has a slab of its own, so that small tensors that
/// are kept keep no images. The DLPack headers lie in the slabs, so a batch costs no allocation
/// when one was released before. For a batch on a device the slabs hold the headers alone, and
/// memory from torch's allocator, in as many pieces, holds the parts.
class BatchTensors {
 public:
  static constexpr std::size_t kLargeBatch = std::size_t{1} << 20;
  static constexpr std::size_t kLargePart = std::size_t{256} << 10;

  /// Acquires room for all rows of each spec. `specs` must outlive this object. `device` is null
  /// for the host. Throws MemoryError.
  BatchTensors(SlabPool& pool, const std::vector<TensorSpec>& specs, BatchExtent extent,
               TorchDevice* device);
  BatchTensors(const BatchTensors&) = delete;
  BatchTensors& operator=(const BatchTensors&) = delete;

  /// Where the parts lie: in host memory, or on the device.
  BatchMemory memory() const { return parts_; }
  /// Whether they lie in one piece, as lay_out() arranges them.
  bool in_one_piece() const { return own_.empty(); }
  /// A new torch.Tensor (rows, *row_shape), or (rows, steps, *row_shape), over the i-th part. Call
  /// once for each part.
  pybind11::object tensor(std::size_t i);

 private:
  void split(SlabPool& pool);
  std::byte* attach_memory(Slab& slab, std::size_t headers, std::size_t bytes);

  const std::vector<TensorSpec>& specs_;
  BatchExtent extent_;
  TorchDevice* device_;
  SlabReference slab_;              // of all parts that have none of their own
  std::vector<SlabReference> own_;  // of each part, or null; empty where no part has one
  std::vector<std::byte*> parts_;
};

/// The shape of one tensor of a batch.
std::vector<std::int64_t> shape_of(const TensorSpec& spec, BatchExtent extent);

}  // namespace velora
