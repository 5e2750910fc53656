#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/lanes.h"
#include "core/memory.h"
#include "core/row_layout.h"

namespace velora {

/// The head of a store's memory: everything that must survive with the rows, in one place.
struct ControlBlock {
  std::uint64_t magic;
  std::uint64_t lane_capacity;
  std::uint64_t pitch;
  std::uint64_t seed;
  std::uint64_t draws;  // draws made so far: the counter of the random streams
  std::uint32_t num_lanes;
  std::uint32_t version;
};

/// Owns one mapping: control block, lane states, rows. A lane is a ring with a single writer.
///
/// Writing is two steps, so that a failed push changes nothing: fill `next_row`, then `commit`.
/// Every operation is O(1). Not synchronised: callers serialise writers and readers.
class Store {
 public:
  /// Throws ValueError for a capacity or lane count out of range, MemoryError when the rows do
  /// not fit into this machine.
  Store(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes, std::uint64_t seed);

  static constexpr std::uint64_t kMaxLaneCapacity = std::uint64_t{1} << 40;

  const RowLayout& layout() const { return layout_; }
  RowsView view() const;
  ControlBlock& control() { return *reinterpret_cast<ControlBlock*>(memory_.data()); }
  const ControlBlock& control() const {
    return *reinterpret_cast<const ControlBlock*>(memory_.data());
  }
  /// Bytes of the mapping.
  std::size_t nbytes() const { return memory_.size(); }

  /// The memory of the lane's next row. Holds its oldest row where the ring is full, so write
  /// only what cannot fail any more.
  std::byte* next_row(std::uint32_t lane);
  /// Makes the row in next_row() the newest of its lane.
  void commit(std::uint32_t lane);
  /// Takes `count` serials that are never stored: rows that newer ones of the same call push out.
  void skip(std::uint32_t lane, std::uint64_t count);
  /// Takes out every row. Serials go on, so indices from before stay recognisable.
  void clear();

  /// Puts `count` rows back as the newest of `lane`, the last with serial `pushed - 1`.
  /// Throws ValueError when they do not fit.
  void restore(std::uint32_t lane, std::uint64_t pushed, std::span<const std::byte> rows);
  /// Copies the live rows of `lane`, oldest first; `rows` has size(lane) * pitch bytes.
  void copy_rows(std::uint32_t lane, std::span<std::byte> rows) const;

 private:
  LaneState* lane_states() const;
  std::byte* rows() const { return memory_.data() + rows_offset_; }
  std::byte* slot_memory(std::uint32_t lane, std::uint64_t slot) const;

  RowLayout layout_;
  std::size_t rows_offset_ = 0;
  Memory memory_;
};

}  // namespace velora
