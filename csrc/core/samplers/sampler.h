#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "core/memory/mapped_allocator.h"
#include "core/random/philox.h"
#include "core/rows/rows_view.h"
#include "core/values/errors.h"

namespace velora {

/// The rows of a batch.
using RowIds = std::vector<RowId, MappedAllocator<RowId>>;

/// The rows of one batch, some at a time and in their order.
class RowStream {
 public:
  /// The next out.size() rows, which are alive.
  virtual void next(std::span<RowId> out) = 0;

 protected:
  ~RowStream() = default;
};

/// A strategy: how rows are chosen. A new one is a file in this folder and an object that a buffer
/// is given; code that gathers rows uses this interface alone.
///
/// A batch is made by catch_up(), begin() and then next() until all of its rows are there, and then
/// write_weights(). Calls are virtual, so next() is asked for 16 rows and more at once.
///
/// It learns of rows by their lanes' journal and by no call of a writer. It serves the rows of one
/// storage. Not synchronised; next() may run in another thread while nothing else is called.
class Sampler : public RowStream {
 public:
  Sampler() = default;
  virtual ~Sampler() = default;
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  /// Follows the rows of `view`, which are the same rows at each call. Only before a batch is
  /// begun, whose rows are all made before the next call; `view` stays as it is until then. O(rows
  /// pushed since the last call), at most.
  virtual void catch_up(const RowsView& view) = 0;
  /// How many rows there are to choose from. O(1).
  virtual std::uint64_t size() const = 0;
  /// Whether a batch may have a row more than once, and so more rows than there are.
  virtual bool replaces() const { return false; }
  /// Begins a batch of `count` rows: those of the draw `key`, where there is something to draw.
  /// Throws ValueError where there are fewer, or none.
  virtual void begin(DrawKey key, std::size_t count) = 0;

  /// Whether its batches have weights.
  virtual bool has_weights() const { return false; }
  /// The importance weights of all rows of the batch, in their order. O(rows of the batch).
  virtual void write_weights(std::span<float> /*out*/) { throw std::logic_error("no weights"); }

  /// Catches up with `view` and gives rows other priorities, those that are alive; tells which
  /// were. Of a row that stands there twice the last one counts. Throws ValueError for a priority
  /// that no row can have, and where rows have none; then nothing has changed.
  virtual void update(const RowsView& /*view*/, std::span<const RowId> /*rows*/,
                      std::span<const float> /*priorities*/, std::span<bool> /*updated*/) {
    throw ValueError("sampler: expected one that keeps priorities, got another");
  }

  /// Makes room for the priorities that the next new rows of `view` are given. Throws ValueError
  /// for one that no row can have, and where rows have none.
  virtual void reserve(const RowsView& /*view*/, std::span<const float> /*priorities*/) {
    throw ValueError("priorities: expected none, since the sampler keeps none, got some");
  }
  /// Gives a row that was appended since the last catch_up() its own priority. Throws nothing after
  /// reserve().
  virtual void give(RowId /*row*/, float /*priority*/) {}

  /// What a user is to be warned of since the last batch, once; null: nothing.
  virtual const char* warning() { return nullptr; }

  /// Bytes of memory, but those that only a batch needs.
  virtual std::size_t nbytes() const { return 0; }
  /// All that it knows besides what it could learn again of the rows. Settles nothing.
  virtual std::vector<std::byte> save(const RowsView& /*view*/) const { return {}; }
  /// Replaces it by what save() gave for the same rows, or something else that claims to be that.
  /// Throws ValueError where it cannot be, and then nothing has changed.
  virtual void restore(const RowsView& /*view*/, std::span<const std::byte> saved) {
    if (!saved.empty()) throw ValueError("sampler: expected no state, got some");
  }
};

}  // namespace velora
