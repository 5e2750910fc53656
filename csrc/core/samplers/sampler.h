#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/memory/mapped_allocator.h"
#include "core/random/philox.h"
#include "core/rows/rows_view.h"

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

/// A strategy: how rows are chosen. A new one is a file in this folder and a member of BatchReader;
/// code that gathers rows uses this interface alone.
///
/// A batch is made by catch_up(), begin() and then next() until all of its rows are there. Calls
/// are virtual, so next() is asked for 16 rows and more at once. What else a strategy knows of the
/// rows that it chose last, such as how likely each was, it keeps until the next begin().
///
/// It learns of rows by their lanes' journal and by no call of a writer. Not synchronised; next()
/// may run in another thread while nothing else is called.
class Sampler : public RowStream {
 public:
  Sampler() = default;
  virtual ~Sampler() = default;
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  /// Follows the rows of `view`, which are the same rows at each call. `view` stays as it is until
  /// the batch is made. O(rows pushed since the last call), at most.
  virtual void catch_up(const RowsView& view) = 0;
  /// How many rows there are to choose from. O(1).
  virtual std::uint64_t size() const = 0;
  /// Begins a batch of `count` rows: those of the draw `key`, where there is something to draw.
  /// Throws ValueError where there are fewer.
  virtual void begin(DrawKey key, std::size_t count) = 0;
};

}  // namespace velora
