#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/memory/block_store.h"
#include "core/rows/compact_view.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/rows/rows_view.h"

namespace velora {

/// A leaf of the observation, which is a field of the state and one of the next state.
struct ObservationLeaf {
  std::size_t state;  // field
  std::size_t next;   // field
  std::size_t nbytes;
  std::size_t frame_bytes;
  std::size_t row_offset;
  std::size_t block_offset;
  std::uint32_t frames;
};

/// All of a layout of compact rows, in the order of their fields.
std::vector<ObservationLeaf> observation_leaves(const RowLayout& layout);

/// The observations of compact rows, each stored once.
///
/// A row has the newest frame of its state and two links. `head` leads to a block with the older
/// frames, unless they are those that the row before it ends with. `next` leads to a block with its
/// next state, unless that is the state of the row after it. Both are decided by comparing bytes
/// when the later row is pushed, so nothing is ever lost, whatever is pushed. The newest row of a
/// lane always has a next block. Blocks are freed when their row is overwritten.
///
/// A row is read through at most frame_stack - 1 rows before it, so each ring has as many slots
/// more than its capacity. Not synchronised.
class CompactRows {
 public:
  /// Of rows in so many slots, all lanes together.
  CompactRows(const RowLayout& layout, std::uint64_t num_slots);

  /// Blocks that can be in use at once, at most.
  ///
  /// Each link of a row leads to a block of its own: one to a next state and, only where frames
  /// stack up, one to older frames. A row is written in this order: the row that it overwrites
  /// gives back all its blocks, the row before it may pass one on, and what is missing is acquired.
  /// So at no time do more rows than there are slots have blocks, and none has more than its links.
  std::uint64_t most_blocks() const { return blocks_per_row() * num_slots_; }
  /// Blocks that `rows` more rows may add to `used` ones, at most: for the same reason, nothing
  /// once all that can be are in use.
  std::uint64_t most_added(std::uint64_t rows, std::uint64_t used) const;
  /// Makes sure that so many rows can be written. Throws MemoryError, and then nothing has changed.
  void reserve(std::size_t rows) { blocks_.reserve(most_added(rows, blocks_.num_used())); }
  /// Writes the observations of source row `i` to `row`, the lane's next, which is not committed
  /// yet. Precondition: reserve() was told of it.
  void write(const RowsView& view, std::uint32_t lane, std::byte* row, const RowSource& source,
             std::size_t i);
  void clear() { blocks_.clear(); }

  /// The frames of a row's state and of its next state, oldest first: frame_stack of each.
  /// Precondition: the row is alive.
  void find_state(const RowsView& view, RowId id, FramePlace* frames) const;
  void find_next_state(const RowsView& view, RowId id, FramePlace* frames) const;

  std::uint32_t frame_stack() const { return frame_stack_; }
  const BlockStore& blocks() const { return blocks_; }
  /// Numbers the blocks of a copied row from blocks.size() on, and adds their present numbers.
  void renumber(std::byte* row_copy, std::vector<std::uint32_t>& blocks) const;
  /// Throws ValueError unless the copied rows of `lanes`, of which the newest `capacity` of each
  /// are to be alive, can be read with so many bytes of blocks, each of which has its row. Returns
  /// the number of blocks.
  std::size_t check_all(std::span<const SavedLane> lanes, std::span<const std::byte> rows,
                        std::size_t pitch, std::uint64_t capacity, std::size_t blocks_nbytes) const;
  /// Makes sure that there can be so many blocks in all. Throws MemoryError, and then nothing has
  /// changed.
  void reserve_blocks(std::uint64_t count) {
    if (count > blocks_.num_used()) blocks_.reserve(count - blocks_.num_used());
  }
  /// Takes `count` blocks back that were numbered so. Precondition: reserve_blocks() was told of
  /// them, and there are no others.
  void restore(const std::byte* blocks, std::size_t count);

 private:
  static constexpr std::uint32_t kNone = Links::kNone;
  std::uint64_t blocks_per_row() const { return frame_stack_ > 1 ? 2 : 1; }
  /// The same of one lane; the blocks that its rows lead to are `used` then.
  void check(std::span<const std::byte> rows, std::size_t pitch, std::uint64_t capacity,
             std::vector<bool>& used) const;
  Links links(const std::byte* row) const;
  void set_links(std::byte* row, Links links) const;
  bool is_state(std::uint32_t block, const RowSource& source, std::size_t i) const;
  bool goes_on(const RowsView& view, RowId previous, const RowSource& source, std::size_t i) const;
  void release(std::uint32_t block) {
    if (block != kNone) blocks_.release(block);
  }

  std::size_t links_offset_;
  std::uint32_t frame_stack_;
  std::uint64_t num_slots_;
  std::vector<ObservationLeaf> leaves_;
  BlockStore blocks_;
};

}  // namespace velora
