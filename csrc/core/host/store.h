#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/host/compact_rows.h"
#include "core/host/saved_rows.h"
#include "core/memory/memory.h"
#include "core/rows/lane_sizes.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"

namespace velora {

/// Rows in host memory. Owns one mapping: control block, lane states, rows; and beside it the
/// blocks of compact rows. A lane is a ring with a single writer.
///
/// Huge pages make random reads faster. Many lanes begin on small ones, since each would have a
/// huge page of its own after one row; they go over once the rows that are there fill half of them.
///
/// append() costs O(rows). view() costs O(rows appended since the last one), times O(log lanes)
/// until lanes are full. Not synchronised: callers serialise writers and readers, but view() may
/// run beside other readers once it was called after the last change.
class Store {
 public:
  /// Throws ValueError for a capacity or lane count out of range, MemoryError when the rows do
  /// not fit into this machine.
  Store(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes, std::uint64_t seed);

  const RowLayout& layout() const { return layout_; }
  Lanes& lanes() { return lanes_; }
  const Lanes& lanes() const { return lanes_; }
  RowsView view() const { return lanes_.view(rows(), layout_, sizes_); }
  /// Live rows of the fullest lane.
  std::uint64_t fullest() const { return view().fullest(); }
  /// Null where rows are whole.
  const CompactRows* compact() const { return compact_.get(); }
  /// Bytes of the mapping and the blocks.
  std::size_t nbytes() const;

  /// Makes sure that so many rows can be appended, in whatever parts. Throws MemoryError, and then
  /// nothing has changed.
  void reserve(std::size_t rows) {
    if (compact_) compact_->reserve(rows);
  }
  /// Appends rows [0, count) to their lanes, in that order: all, or none when this throws
  /// MemoryError.
  void append(const LaneOrder& lanes, const RowSource& source, std::size_t count);
  /// Marks the newest row of `lane` as truncated, unless it ended its episode by itself.
  void end_episode(std::uint32_t lane);
  void clear();

  /// Draws begin again, with another seed.
  void set_seed(std::uint64_t seed) { lanes_.set_seed(seed); }

  /// Copies the rows that lanes().save() lists to `rows`, which has room for them, and the blocks
  /// that their links, renumbered, lead to to memory that is asked for.
  void save(std::span<std::byte> rows, const BlockMemory& block_memory) const;
  /// Puts back what was saved in place of what there is. Throws ValueError when it does not fit,
  /// and MemoryError; then nothing has changed.
  void restore(const SavedRows& saved);

 private:
  /// Rows written together: enough places on their way from memory, few enough for the first-level
  /// cache.
  static constexpr std::size_t kBlock = 16;

  /// Rows that count already and are to be written.
  struct NewRows {
    std::byte* rows[kBlock];
    std::uint8_t flags[kBlock];
  };

  std::byte* rows() const { return memory_.data() + rows_offset_; }
  std::byte* next_row(std::uint32_t lane) {
    return rows() + lanes_.next_place(lane) * layout_.pitch();
  }
  void put_on_huge_pages(std::uint64_t rows, std::size_t most);
  void append_whole(const LaneOrder& lanes, const RowSource& source, std::size_t count);
  /// Gives source rows [first, first + count) their places. `lane` is that of the row before them,
  /// and then of the last.
  void begin_rows(const LaneOrder& lanes, const RowSource& source, std::size_t first,
                  std::size_t count, std::uint32_t& lane, NewRows& out);
  void write_rows(const NewRows& block, const RowSource& source, std::size_t first,
                  std::size_t count);
  void append_compact(const LaneOrder& lanes, const RowSource& source, std::size_t count);

  RowLayout layout_;
  std::size_t rows_offset_;
  Memory memory_;
  std::size_t small_pages_;  // where what was left on small pages begins
  Lanes lanes_;
  mutable LaneSizes sizes_;  // as of the last view()
  std::unique_ptr<CompactRows> compact_;
};

}  // namespace velora
