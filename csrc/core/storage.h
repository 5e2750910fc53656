#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "core/batch/target.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/rows/rows_view.h"
#include "core/rows/saved_rows.h"
#include "core/threads/parts.h"
#include "core/values/errors.h"

namespace velora {

/// Where the rows of a buffer are: in the host's memory, in a device's own, or in pinned memory of
/// the host that the device reads directly.
enum class StorageKind : std::uint8_t { kHost, kDevice, kPinned };

/// The names of rows, alive or not: packed RowIds. Negative ones are of no row.
struct RowNames {
  const std::int64_t* packed;
  std::size_t count;
  bool on_device = false;  // where the rows are on a device, too
};

/// The rows of a buffer and all that is done to them: one call for each push or batch.
///
/// Work of a device is queued on the `stream` of the call, and calls return without waiting for it
/// unless they say otherwise; host storage ignores streams. A `runner`, which may be null, shares
/// work of the host between threads; device storage ignores it. Not synchronised: callers serialise
/// all calls. Calls throw DeviceError when the device fails.
class Storage {
 public:
  Storage() = default;
  virtual ~Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  virtual const RowLayout& layout() const = 0;
  /// On a device, the number of draws and the episodes are up to date only after settle().
  virtual Lanes& lanes() = 0;
  /// Which rows are alive and where. The rows themselves may be a device's to read.
  virtual RowsView view() = 0;
  /// Live rows of all lanes, and at most of one.
  virtual std::uint64_t size() = 0;
  virtual std::uint64_t fullest() = 0;
  /// Bytes of the rows and of what belongs to them.
  virtual std::size_t nbytes() const = 0;

  /// Makes sure that that many rows can be appended, in any parts. Throws MemoryError, and then
  /// nothing has changed.
  virtual void reserve(std::size_t rows, void* stream) = 0;
  /// Makes sure that these priorities can be given with rows that are appended next. Throws
  /// ValueError for one that no row can have, and where rows have none.
  virtual void reserve_priorities(std::span<const float> /*priorities*/) {
    throw ValueError("priorities: expected none, since the sampler keeps none, got some");
  }
  /// Appends rows [0, count) to their lanes, in that order: all, or none when this throws
  /// MemoryError.
  virtual void append(const LaneOrder& lanes, const RowSource& source, std::size_t count,
                      void* stream) = 0;
  /// Whether append_columns() is there.
  virtual bool takes_columns() const { return false; }
  /// Appends `steps` rows of each lane, some of whose fields lie on the device, step by step: row
  /// `t * lanes.count + l` is step t of lane l.
  virtual void append_columns(LaneRange /*lanes*/, std::uint64_t /*steps*/,
                              const MixedSource& /*source*/, void* /*stream*/) {
    throw std::logic_error("these rows are on the host");
  }
  /// Marks the newest row of `lane` as truncated, unless it ended its episode by itself.
  virtual void end_episode(std::uint32_t lane, void* stream) = 0;
  /// Writes fields of rows that are there already, those that are alive: for the i-th, the i-th of
  /// each field of `source` that is not null. Tells which were written. No field of a state; of a
  /// row that stands there twice the last one stays. Throws nothing once a row was written.
  virtual void update_fields(std::span<const RowId> rows, const RowSource& source,
                             std::span<bool> updated, void* stream) = 0;
  /// Takes out every row. Serials and episodes go on.
  virtual void clear(void* stream) = 0;

  /// Writes `count` rows that its sampler chooses to `target`: those of the next draw, which then
  /// counts as made. Throws ValueError when there are fewer.
  virtual void sample(std::uint64_t count, const BatchTarget& target, void* stream,
                      const PartRunner* runner) = 0;
  /// The same with replacement, whatever the sampler: of any `count` up to kMaxDraw, each of them
  /// any live row. Throws ValueError for more, and where there is no row.
  virtual void sample_replaced(std::uint64_t count, const BatchTarget& target, void* stream,
                               const PartRunner* runner) = 0;
  /// Writes the rows of these names in their order, and padding for those that are not alive.
  virtual void gather(const RowNames& names, const BatchTarget& target, void* stream,
                      const PartRunner* runner) = 0;
  /// Writes the `count` live rows from position `start` on in time order.
  virtual void take(std::uint64_t start, std::uint64_t count, const BatchTarget& target,
                    void* stream, const PartRunner* runner) = 0;
  /// How many steps a sequence can start at. May wait for a device.
  virtual std::uint64_t count_sequences(const SequenceSpec& spec, void* stream) = 0;
  /// Writes `count` sequences, as sample() does.
  virtual void sample_sequences(const SequenceSpec& spec, std::uint64_t count,
                                const SequenceTarget& target, void* stream,
                                const PartRunner* runner) = 0;

  /// Gives rows other priorities, those that are alive; tells which were. Throws ValueError for a
  /// priority that no row can have, and where rows have none; then nothing has changed.
  virtual void update_priorities(std::span<const RowId> /*rows*/,
                                 std::span<const float> /*priorities*/, std::span<bool> /*updated*/,
                                 void* /*stream*/) {
    throw ValueError("sampler: expected one that keeps priorities, got another");
  }
  /// What the sampler knows besides the rows. Settles nothing; waits for a device.
  virtual std::vector<std::byte> save_sampler(void* /*stream*/) { return {}; }
  /// Replaces it by what save_sampler() gave for the same rows. Throws ValueError where it cannot
  /// be, and then nothing has changed.
  virtual void restore_sampler(std::span<const std::byte> saved, void* /*stream*/) {
    if (!saved.empty()) throw ValueError("sampler: expected no state, got some");
  }

  /// Brings lanes() up to date, for which it may wait for a device.
  virtual void settle(void* stream) = 0;
  /// Draws begin again, with another seed: also those of graphs that were captured.
  virtual void set_seed(std::uint64_t seed, void* stream) = 0;

  /// Copies present rows, range by range, to `rows`, which has room for them, and the blocks that
  /// compact ones lead to, which the links in `rows` number from 0, to memory that is asked for.
  /// Compact rows lead to their neighbours, too: ranges hold what is to be imported together.
  /// Settles, and waits for a device.
  virtual void export_rows(std::span<const RowRange> ranges, std::span<std::byte> rows,
                           const BlockMemory& block_memory, void* stream) = 0;
  /// Replaces all rows by exported ones of all lanes. Throws ValueError when it
  /// does not fit, and MemoryError; then nothing has changed.
  virtual void import_rows(const SavedRows& saved, void* stream) = 0;
};

}  // namespace velora
