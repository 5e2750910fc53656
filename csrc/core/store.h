#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/lanes.h"
#include "core/memory.h"
#include "core/row_layout.h"

namespace velora {

/// Rows in host memory. Owns one mapping: control block, lane states, rows. A lane is a ring with
/// a single writer.
///
/// Writing is two steps, so that a failed push changes nothing: fill `next_row`, then `commit`.
/// Every operation is O(1). Not synchronised: callers serialise writers and readers.
class Store {
 public:
  /// Throws ValueError for a capacity or lane count out of range, MemoryError when the rows do
  /// not fit into this machine.
  Store(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes, std::uint64_t seed);

  const RowLayout& layout() const { return layout_; }
  Lanes& lanes() { return lanes_; }
  const Lanes& lanes() const { return lanes_; }
  RowsView view() const { return lanes_.view(rows(), layout_); }
  /// Bytes of the mapping.
  std::size_t nbytes() const { return memory_.size(); }

  /// The memory of the lane's next row. Holds its oldest row where the ring is full, so write
  /// only what cannot fail any more.
  std::byte* next_row(std::uint32_t lane) {
    return rows() + lanes_.next_place(lane) * layout_.pitch();
  }
  void commit(std::uint32_t lane) { lanes_.commit(lane); }
  void skip(std::uint32_t lane, std::uint64_t count) { lanes_.skip(lane, count); }
  void clear() { lanes_.clear(); }

  /// Puts rows back as the newest of `lane`, the last with serial `pushed - 1`.
  /// Throws ValueError when they do not fit.
  void restore(std::uint32_t lane, std::uint64_t pushed, std::span<const std::byte> rows);
  /// Copies the live rows of `lane`, oldest first; `rows` has size(lane) * pitch bytes.
  void copy_rows(std::uint32_t lane, std::span<std::byte> rows) const;

 private:
  std::byte* rows() const { return memory_.data() + rows_offset_; }

  RowLayout layout_;
  std::size_t rows_offset_;
  Memory memory_;
  Lanes lanes_;
};

/// How many rows `rows` holds. Throws ValueError when that is no whole number.
std::uint64_t count_rows(std::span<const std::byte> rows, std::size_t pitch);

}  // namespace velora
