#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/batch_names.h"
#include "bindings/batch_tensors.h"
#include "bindings/field_trees.h"
#include "bindings/gather_lock.h"
#include "bindings/known_type.h"
#include "bindings/row_reader.h"
#include "bindings/row_storage.h"
#include "core/device/copy_ring.h"
#include "core/host/gather.h"
#include "core/memory/slab.h"
#include "core/random/draw_seed.h"

namespace velora {

/// What a buffer is besides its fields.
struct BufferOptions {
  std::uint64_t lane_capacity;
  std::uint32_t num_lanes;
  std::shared_ptr<DrawSeed> seed;
  /// Over how many steps a sampled row looks ahead.
  std::uint32_t n_step;
  /// What a step's next value is worth. Buffers that have it return discounts.
  std::optional<double> gamma;
  /// A full lane drops its oldest row; without it, it refuses new ones.
  bool overwrite;
  ObservationStorage observations;
  /// Where rows are, and the device for batches: null for the host, which then has the rows, too.
  StoragePlace place;
  TorchDevice* device;
};

/// What a buffer asks its schema.
struct SchemaCalls {
  /// Called with each new type of experience; raises for one that lacks a field or has another.
  pybind11::object check_type;
  /// What extend() calls each field's batch, in the order of the row: the pytrees' names, then
  /// done and truncated.
  std::vector<std::string> batch_names;
  /// Called with the arguments of an extend() that are others: returns a dict of attribute ->
  /// array, and lanes; or raises.
  pybind11::object read_batch;
  /// BatchExperience.
  pybind11::object batch_type;
};

/// The native half of ReplayBuffer and RolloutBuffer: rows in, tensors out.
///
/// The GIL is its lock: it is held from the first read of a call to its last write. Large batches
/// are gathered without it, by several threads, and all that would come in between waits. Every
/// mutation is all or nothing.
class Buffer {
 public:
  /// `fields` are the row's fields and `trees` the pytrees that hold them. Throws ValueError,
  /// MemoryError and DeviceError.
  Buffer(std::vector<Field> fields, const pybind11::dict& trees, const BufferOptions& options,
         SchemaCalls schema);

  /// Appends one experience to a lane; null where there is only one. Throws ValueError for data
  /// that does not fit, BufferError when full.
  void push(pybind11::handle experience, pybind11::handle lane);
  /// Appends rows given as arrays with a leading dimension, oldest first: by their batch names, or
  /// as read_batch understands them. `lanes` among them is an array with the lane of each row, or
  /// None: the same number for all lanes, time step by time step. Throws as push does.
  void extend(const CallArguments& call);
  /// Appends the live steps of another buffer or of this one, each to its lane's lane in `lanes`,
  /// an array, or to that of the same number where it is None. Episodes end where a copy of steps
  /// begins and ends, so no step becomes the successor of another that was not. Throws ValueError
  /// for steps of another form or an unknown lane, BufferError when there is less room.
  void extend_from(Buffer& source, pybind11::handle lanes);

  /// Marks the newest row of each lane in an array, or of all where it is None, as truncated,
  /// unless it ended its episode by itself. Throws ValueError for an unknown lane.
  void end_episodes(pybind11::handle lanes);

  std::size_t size() const { return storage_->size(); }
  /// Draws distinct rows. Returns a batch with all fields, dones, truncations and indices, and
  /// where gamma is set with discounts: a new one, or `out` with its tensors written again, where
  /// that is not None. Throws ValueError when there are fewer than `batch_size`, or `out` does not
  /// fit.
  pybind11::object sample(pybind11::handle batch_size, pybind11::handle out);
  /// Where each tensor of a batch lies in one piece of memory: (bytes, [(offset, dtype, shape)]).
  pybind11::tuple batch_layout(pybind11::handle batch_size) const;
  /// As sample(), into such memory: `base` is a contiguous uint8 tensor on the buffer's device.
  void sample_into(pybind11::handle base, pybind11::handle batch_size);
  /// The batch of these tensors.
  pybind11::object name_batch(std::vector<pybind11::object> tensors) const;
  /// The same for `count` rows, looking no further than one step, from position `start` on in time
  /// order.
  pybind11::object take(std::size_t start, std::size_t count);
  /// Draws sequences with distinct starts. Returns what sample() does, step by step, then mask and
  /// is_first. Of the fields in `first_fields` there is the first step alone. `length` is at least
  /// 1, and neither it nor `burn_in` exceeds a lane. Throws ValueError when there are too few
  /// starts, or for an unknown boundary.
  pybind11::object sample_sequences(pybind11::handle batch_size, std::size_t length,
                                    std::size_t burn_in, const std::string& boundary,
                                    const std::vector<std::size_t>& first_fields);
  void clear();
  /// How many rows were ever stored in all lanes, also those that are gone. O(lanes).
  std::uint64_t count_pushed() const;
  /// Whether all lanes hold as many rows.
  bool is_even() const { return storage_->view().is_even(); }

  /// "cpu", "cuda" or "pinned": where the rows are.
  const char* storage() const;
  bool is_compact() const { return storage_->layout().compact(); }
  std::size_t nbytes() const { return storage_->nbytes(); }

  /// Draws begin again, with another seed.
  void seed(std::uint64_t value);

  /// (lanes, seed, draws, rows, blocks) of one moment: with the schema and the options, all that
  /// the buffer is.
  pybind11::tuple state();
  /// Puts the rows of a state() in place of what there is, from objects that give their bytes.
  /// Throws ValueError when they do not fit this buffer, which is then as before.
  void restore(pybind11::handle lanes, std::uint64_t draws, pybind11::handle rows,
               pybind11::handle blocks);

 private:
  class ReaderLease;
  /// The tensors of one kind of batch: one for each field, and then those about time.
  struct Plan {
    std::vector<TensorSpec> specs;
    std::size_t reward = 0;
    std::size_t dones = 0;  // where those about time begin
    std::size_t row_bytes = 0;
  };

  /// Comes first in each call that draws: it can run code.
  void settle_seed() {
    if (seed_->version() != seed_version_ || !seed_->is_settled()) adopt_seed();
  }
  void adopt_seed();
  void tell_seed();
  Plan plan_batch() const;
  auto draw_rows(std::size_t count);
  Plan plan_sequences(const std::vector<std::size_t>& first_fields) const;
  /// A batch that `fill(memory, runner)` writes; a large one with a runner.
  template <typename Fill>
  pybind11::object make_batch(const Plan& plan, BatchExtent extent, const Fill& fill);
  /// The same into the tensors of a batch that is there already.
  template <typename Fill>
  void write_batch(const Plan& plan, BatchExtent extent, pybind11::handle out, const Fill& fill);
  /// Throws ValueError where two tensors of a batch share memory.
  void require_apart(const Plan& plan, BatchExtent extent, BatchMemory memory) const;
  /// Writes a batch where locate() says: calls fill(memory, runner) when no other call gathers.
  /// Where that is one piece of memory, laid out as lay_out() does, what lies between is nobody's.
  template <typename Locate, typename Fill>
  void run_gather(const Plan& plan, BatchExtent extent, bool in_one_piece, const Locate& locate,
                  const Fill& fill);
  /// The same to the host's memory: no other code runs between locate() and fill().
  template <typename Locate, typename Fill>
  void gather_on_host(const Plan& plan, BatchExtent extent, const Locate& locate, const Fill& fill);
  /// The same for rows on the host and a batch on the device, by way of pinned memory.
  template <typename Locate, typename Fill>
  void gather_and_copy(const Plan& plan, BatchExtent extent, bool in_one_piece,
                       const Locate& locate, const Fill& fill);
  void queue_copies(const Plan& plan, BatchExtent extent, const BatchLayout& layout,
                    BatchMemory memory, bool in_one_piece);
  /// Stores the rows that the reader looked at, `lanes` in order, where they are.
  void append(RowReader& reader, const LaneOrder& order, LaneRange lanes);
  /// Checks another type of experience, and learns it. Runs code.
  void learn_type(pybind11::handle experience);
  /// The fields that come for each step, or for the first alone.
  void add_columns(const Plan& plan, BatchMemory memory, bool each_step, std::uint32_t n_step,
                   std::vector<Column>& columns) const;
  /// `columns` is the memory for the target's.
  BatchTarget target_of(const Plan& plan, BatchMemory memory, std::uint32_t n_step,
                        std::vector<Column>& columns) const;
  void require_room(const LaneOrder& lanes, std::size_t rows) const;
  [[noreturn]] void refuse_full(std::uint32_t lane, std::uint64_t size, std::size_t rows) const;
  std::vector<std::uint32_t> read_targets(pybind11::handle lanes, std::uint32_t count) const;
  std::vector<std::size_t> match_fields(const RowLayout& source) const;
  std::size_t require_room_for(const RowsView& source,
                               const std::vector<std::uint32_t>& targets) const;
  void require_rows(std::size_t count) const;
  RowReader& idle_reader();
  /// The call's array for each of batch_names, null where it has none, and its lanes. Returns false
  /// where it is to be read by read_batch.
  bool find_columns(const CallArguments& call, std::vector<PyObject*>& columns,
                    pybind11::handle& lanes) const;
  /// Inlined, it would make the short way of extend() longer.
  [[gnu::noinline]] void read_and_extend(const CallArguments& call, RowReader& reader,
                                         std::vector<PyObject*>& columns);
  void append_rows(RowReader& reader, const std::vector<PyObject*>& columns,
                   pybind11::handle lanes);

  std::shared_ptr<DrawSeed> seed_;
  std::uint64_t seed_version_;  // that the storage knows of
  std::unique_ptr<RowStorage> storage_;
  std::unique_ptr<CopyRing> copies_;  // where rows are on the host and batches on the device
  GatherLock gather_lock_;
  BufferOptions options_;
  FieldTrees trees_;
  BatchNames names_;
  SchemaCalls schema_;
  std::vector<pybind11::object> batch_names_;  // interned, as lanes_name_
  pybind11::object lanes_name_;
  Plan plan_;
  std::vector<std::unique_ptr<RowReader>> idle_readers_;
  KnownType known_type_;
  std::shared_ptr<SlabPool> slabs_;
  std::vector<Column> columns_;
  std::vector<Column> first_columns_;
};

}  // namespace velora
