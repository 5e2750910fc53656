#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "bindings/batch_names.h"
#include "bindings/batch_tensors.h"
#include "bindings/buffer_options.h"
#include "bindings/gather_lock.h"
#include "core/batch/plan.h"
#include "core/device/copy_ring.h"
#include "core/memory/slab.h"
#include "core/threads/parts.h"

namespace velora {

/// Writes a batch to the memory of its tensors. Throws what a draw throws.
using FillBatch = std::function<void(BatchMemory, const PartRunner*)>;

/// Makes the batches of a buffer: their memory, the gather into it, by way of the host where a
/// batch goes to a device and the rows do not, and the BatchExperience around the tensors.
///
/// Needs the GIL. Large batches are gathered without it, by several threads, and what would come in
/// between waits at the lock. `lock` and `options` outlive this.
class BatchMaker {
 public:
  BatchMaker(GatherLock& lock, const BufferOptions& options, BatchNames names);

  /// A new batch of that plan.
  pybind11::object make(const BatchPlan& plan, BatchExtent extent, const FillBatch& fill);
  /// Writes the tensors of the batch `out` again. Throws TypeError for what is no batch, ValueError
  /// where a tensor does not fit or shares memory with another.
  void write(const BatchPlan& plan, BatchExtent extent, pybind11::handle out,
             const FillBatch& fill);
  /// Writes a batch into one piece of memory, as lay_out() lays it out: `base` is a contiguous
  /// uint8 tensor on the buffer's device. Throws ValueError where it does not fit.
  void write_into(const BatchPlan& plan, BatchExtent extent, pybind11::handle base,
                  const FillBatch& fill);
  /// A new bool tensor (rows,) on the host. `fill` writes it when no other call gathers.
  pybind11::object make_mask(std::size_t rows, const std::function<void(bool*)>& fill);
  /// The batch of tensors in the order of the plan.
  pybind11::object name(const BatchPlan& plan, std::vector<pybind11::object> tensors) const;

 private:
  using Locate = std::function<BatchMemory()>;

  /// Throws ValueError where two tensors of a batch share memory.
  void require_apart(const BatchPlan& plan, BatchExtent extent, BatchMemory memory) const;
  /// Writes a batch where locate() says: calls fill(memory, runner) when no other call gathers.
  /// Where that is one piece of memory, laid out as lay_out() does, the gaps between tensors are
  /// overwritten.
  void run_gather(const BatchPlan& plan, BatchExtent extent, bool in_one_piece,
                  const Locate& locate, const FillBatch& fill);
  /// The same to the host's memory: no other code runs between locate() and fill().
  void gather_on_host(const BatchPlan& plan, BatchExtent extent, const Locate& locate,
                      const FillBatch& fill);
  /// The same for rows on the host and a batch on the device, by way of pinned memory.
  void gather_and_copy(const BatchPlan& plan, BatchExtent extent, bool in_one_piece,
                       const Locate& locate, const FillBatch& fill);
  void queue_copies(const BatchPlan& plan, BatchExtent extent, const BatchLayout& layout,
                    BatchMemory memory, bool in_one_piece);

  GatherLock& gather_lock_;
  const BufferOptions& options_;
  BatchNames names_;
  std::unique_ptr<CopyRing> copies_;  // where rows are on the host and batches on the device
  std::shared_ptr<SlabPool> slabs_;
};

}  // namespace velora
