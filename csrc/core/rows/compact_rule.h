#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

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

/// The rule by which observations are stored once: which part of them lies in a row, which in
/// blocks beside it, and which blocks a row needs. The same for rows of the host and of a device.
///
/// A row has the newest frame of its state and two links. `head` leads to a block with the older
/// frames, unless they are those that the row before it ends with. `next` leads to a block with its
/// next state, unless that is the state of the row after it. Both are decided by comparing bytes
/// when the later row is pushed, so no observation is ever lost. The newest row of a
/// lane always has a next block. Blocks are freed when their row is overwritten.
///
/// A row is read through at most frame_stack - 1 rows before it, so each ring has as many slots
/// more than its capacity. Immutable after construction, so it may be read from any thread.
class CompactRule {
 public:
  /// The slots are those of all lanes together.
  CompactRule(const RowLayout& layout, std::uint64_t num_slots);

  std::uint32_t frame_stack() const { return frame_stack_; }
  std::size_t links_offset() const { return links_offset_; }
  std::size_t block_bytes() const { return block_bytes_; }
  const std::vector<ObservationLeaf>& leaves() const { return leaves_; }

  /// Blocks that can be in use at once, at most.
  ///
  /// Each link of a row leads to its own block: one to a next state and, only where frames
  /// stack up, one to older frames. A row is written in this order: the row that it overwrites
  /// gives back all its blocks, the row before it may pass one on, and what is missing is acquired.
  /// So at no time do more rows than there are slots have blocks, and none has more than its links.
  std::uint64_t most_blocks() const { return blocks_per_row() * num_slots_; }
  /// Blocks that `rows` more rows may add to `used` ones, at most: for the same reason, nothing
  /// once all that can be are in use.
  std::uint64_t most_added(std::uint64_t rows, std::uint64_t used) const;

  Links links(const std::byte* row) const {
    Links links;
    std::memcpy(&links, row + links_offset_, sizeof(links));
    return links;
  }
  void set_links(std::byte* row, Links links) const {
    std::memcpy(row + links_offset_, &links, sizeof(links));
  }

  /// Decides the links of a lane's next row, which is not committed yet. `around` knows the rows
  /// and the blocks:
  ///
  ///   Links overwritten()       of the row in whose slot the new one goes
  ///   Links previous()          of the lane's newest row
  ///   void set_previous(links)
  ///   bool goes_on()            are the new state's older frames the newer ones of that row's
  ///   state? bool is_state(block)      has that row's next block the bytes of the new state?
  ///   acquire(), release(block)
  template <typename Around>
  Links link(const RowsView& view, std::uint32_t lane, Around& around) const {
    const LaneState& state = view.lanes[lane];
    const std::uint64_t present = state.pushed - state.cleared;
    if (present >= view.lane_slots) {
      const Links overwritten = around.overwritten();
      if (overwritten.next != Links::kNone) around.release(overwritten.next);
      if (overwritten.head != Links::kNone) around.release(overwritten.head);
    }
    Links own = {.next = Links::kNone, .head = Links::kNone};
    bool follows = false;
    if (present > 0 && view.lane_slots > 1) {  // with one slot this row overwrites the one before
      Links previous = around.previous();
      follows = frame_stack_ == 1 || around.goes_on();
      if (around.is_state(previous.next)) {
        own.next = std::exchange(previous.next, Links::kNone);  // for this row's next state
        around.set_previous(previous);
      }
    }
    if (frame_stack_ > 1 && !follows) own.head = around.acquire();
    if (own.next == Links::kNone) own.next = around.acquire();
    return own;
  }

  /// Whether a block with a next state has the bytes of the state of source row `i`.
  bool is_state(const std::byte* block, const RowSource& source, std::size_t i) const;
  /// Whether the older frames of the state of source row `i` are the newer ones of another state,
  /// whose frame f, counted from the oldest, lies in `frame_of(f)`.
  template <typename FrameOf>
  bool goes_on(const FrameOf& frame_of, const RowSource& source, std::size_t i) const {
    for (const ObservationLeaf& leaf : leaves_) {
      const std::byte* state = source.fields[leaf.state] + i * leaf.nbytes;
      for (std::uint32_t f = 0; f + 1 < leaf.frames; ++f) {
        const std::byte* frame =
            frame_of(f + 1).of(leaf.row_offset, leaf.block_offset, leaf.frame_bytes);
        if (std::memcmp(frame, state + f * leaf.frame_bytes, leaf.frame_bytes) != 0) return false;
      }
    }
    return true;
  }

  /// Writes what of the observations of source row `i` is in the row and in its blocks. `head` is
  /// null where it has none.
  void write(std::byte* row, std::byte* head, std::byte* next, const RowSource& source,
             std::size_t i) const;
  /// All of its state, or of its next state, as a block has it.
  void write_state(std::byte* block, const RowSource& source, std::size_t i) const;
  void write_next_state(std::byte* block, const RowSource& source, std::size_t i) const;

  /// Numbers the blocks of a copied row from blocks.size() on, and adds their present numbers.
  void renumber(std::byte* row_copy, std::vector<std::uint32_t>& blocks) const;
  /// Throws ValueError unless the copied rows of `lanes`, of which the newest `capacity` of each
  /// are to be alive, can be read with that many bytes of blocks, each of which has its row.
  /// Returns the number of blocks.
  std::size_t check_all(std::span<const SavedLane> lanes, std::span<const std::byte> rows,
                        std::size_t pitch, std::uint64_t capacity, std::size_t blocks_nbytes) const;

 private:
  std::uint64_t blocks_per_row() const { return frame_stack_ > 1 ? 2 : 1; }
  /// The same of one lane; the blocks that its rows lead to are `used` then.
  void check(std::span<const std::byte> rows, std::size_t pitch, std::uint64_t capacity,
             std::vector<bool>& used) const;

  std::size_t links_offset_;
  std::size_t block_bytes_;
  std::uint32_t frame_stack_;
  std::uint64_t num_slots_;
  std::vector<ObservationLeaf> leaves_;
};

}  // namespace velora
