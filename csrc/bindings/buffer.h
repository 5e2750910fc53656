#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/batch_maker.h"
#include "bindings/buffer_options.h"
#include "bindings/field_trees.h"
#include "bindings/gather_lock.h"
#include "bindings/row_writer.h"
#include "core/batch/plan.h"
#include "core/rows/row_layout.h"
#include "core/storage.h"

namespace velora {

/// The native half of ReplayBuffer and RolloutBuffer: rows in, tensors out.
///
/// The GIL is its lock: it is held from the first read of a call to its last write. Large batches
/// are gathered without it, by several threads, and all that would come in between waits. Every
/// mutation is all or nothing.
class Buffer {
 public:
  /// `fields` are the row's fields and `trees` the pytrees that hold them. Throws ValueError,
  /// MemoryError and DeviceError.
  Buffer(std::vector<Field> fields, const pybind11::dict& trees, BufferOptions options,
         SchemaCalls schema);

  /// As RowWriter's.
  void push(pybind11::handle experience, pybind11::handle lane, pybind11::handle priority) {
    writer_.push(experience, lane, priority);
  }
  void extend(const CallArguments& call) { writer_.extend(call); }

  /// Marks the newest row of each lane in an array, or of all where it is None, as truncated,
  /// unless it ended its episode by itself. Throws ValueError for an unknown lane.
  void end_episodes(pybind11::handle lanes);

  std::size_t size() const { return storage_->size(); }
  /// Draws rows. Returns a batch with all fields, dones, truncations and indices, discounts where
  /// gamma is set, steps where rows sum up several, and weights where the sampler has them: a new
  /// one, or `out` with its tensors written again, where that is not None. `replace` is True, False
  /// or None, which leaves it to the sampler. Throws ValueError when there are too few rows, `out`
  /// does not fit, or the sampler draws otherwise than `replace` says.
  pybind11::object sample(pybind11::handle batch_size, pybind11::handle out,
                          pybind11::handle replace);
  /// The rows that an array of indices (B,) or (B, L) names, as a batch like that of sample(), but
  /// without weights. Rows that are gone are padding. Indices on the device of the rows are read
  /// there. Throws ValueError for other arrays.
  pybind11::object gather(pybind11::handle indices);
  /// Where each tensor of a batch lies in one piece of memory: (bytes, [(offset, dtype, shape)]).
  pybind11::tuple batch_layout(pybind11::handle batch_size) const;
  /// As sample(), into such memory: `base` is a contiguous uint8 tensor on the buffer's device.
  void sample_into(pybind11::handle base, pybind11::handle batch_size);
  /// The batch of these tensors.
  pybind11::object name_batch(std::vector<pybind11::object> tensors) const;
  /// The same for `count` rows, without weights and looking no further than one step, from position
  /// `start` on in time order.
  pybind11::object take(std::size_t start, std::size_t count);
  /// Draws sequences. Returns what sample() does, step by step, then mask and is_first. Of the
  /// fields in `first_fields` there is the first step alone, and of weights one for each sequence.
  /// `length` is at least 1, and neither it nor `burn_in` exceeds a lane. Throws ValueError when
  /// there are too few starts, or for an unknown boundary.
  pybind11::object sample_sequences(pybind11::handle batch_size, std::size_t length,
                                    std::size_t burn_in, const std::string& boundary,
                                    const std::vector<std::size_t>& first_fields);
  /// Gives the rows that an array of their indices names other priorities, one for each. Returns a
  /// bool tensor (rows,): whether each was alive. Throws ValueError for other arrays and for
  /// priorities that no row can have, and where the sampler has none.
  pybind11::object update_priorities(pybind11::handle indices, pybind11::handle priorities);
  /// As RowWriter's. Returns a bool tensor (rows,).
  pybind11::object update(pybind11::handle indices, const pybind11::dict& fields);
  void clear();
  /// How many rows each lane holds.
  std::vector<std::uint64_t> lane_lengths() const;
  /// How many rows were ever stored in all lanes, also those that are gone. O(lanes).
  std::uint64_t count_pushed() const;
  /// Whether all lanes hold as many rows.
  bool is_even() const { return storage_->view().is_even(); }

  Storage& storage() { return *storage_; }
  void* stream() const { return options_.stream(); }
  StorageKind storage_kind() const { return options_.storage; }
  bool is_compact() const { return storage_->layout().compact(); }
  std::size_t nbytes() const { return storage_->nbytes(); }

  /// Draws begin again, with another seed.
  void seed(std::uint64_t value);

  /// (lanes, seed, draws, rows, blocks, sampler) of one moment: with the schema and the options,
  /// all that the buffer is.
  pybind11::tuple state();
  /// Replaces all rows by those of a state(), from objects that give their bytes.
  /// Throws ValueError when they do not fit this buffer, which is then as before.
  void restore(pybind11::handle lanes, std::uint64_t draws, pybind11::handle rows,
               pybind11::handle blocks, pybind11::handle sampler);

 private:
  /// Comes first in each call that draws: it can run code.
  void settle_seed() {
    if (seed_->version() != seed_version_ || !seed_->is_settled()) adopt_seed();
  }
  void adopt_seed();
  void tell_seed();
  auto draw_rows(std::size_t count, bool replaces);
  void require_rows(std::size_t count, bool replaces) const;
  bool read_replace(pybind11::handle replace) const;
  /// Warns of what the sampler has to say. Comes last: it can run code.
  void warn();

  BufferOptions options_;
  SchemaCalls schema_;
  std::shared_ptr<DrawSeed> seed_;
  std::uint64_t seed_version_;  // that the storage knows of
  std::unique_ptr<Storage> storage_;
  GatherLock gather_lock_;
  FieldTrees trees_;
  BatchPlan plan_;           // of rows that are taken: single steps
  BatchPlan sequence_plan_;  // of the steps of sequences
  BatchPlan gather_plan_;    // of rows that are named
  BatchPlan draw_plan_;      // of rows that are drawn
  RowWriter writer_;
  BatchMaker batches_;
  std::vector<Column> columns_;
  std::vector<Column> first_columns_;
};

}  // namespace velora
