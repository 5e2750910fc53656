#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/random/philox.h"
#include "core/rows/journal.h"
#include "core/rows/lane_sizes.h"
#include "core/rows/row_extent.h"
#include "core/rows/row_layout.h"
#include "core/rows/rows_view.h"
#include "core/rows/saved_rows.h"

namespace velora {

/// The first words of a buffer's memory: the state that must survive with the rows.
struct ControlBlock {
  std::uint64_t lane_capacity;
  std::uint64_t lane_slots;
  std::uint64_t pitch;
  std::uint64_t seed;
  std::uint64_t draws;  // draws made so far: the counter of the random streams
  std::uint64_t num_lanes;
};

/// The control block, the states of all lanes and the journal of what came to them, and the only
/// code that changes them. The rows themselves may lie anywhere: what is here says which are alive
/// and where each goes.
///
/// A row counts from the moment that the serial of its lane moves on. Who has to know of it finds
/// out by the journal when it is asked, without notification, and a writer writes its lane and its
/// journal alone.
///
/// Lies in host memory that is not its own, nbytes(num_lanes) of it. Every operation is O(1), but
/// clear() and restore(), which visit each lane. Not synchronised: callers serialise writers.
class Lanes {
 public:
  static std::size_t nbytes(std::uint32_t num_lanes) {
    return states_bytes(num_lanes) + Journal::nbytes(num_lanes);
  }
  /// The control block and the states, which come first: what a device has a copy of.
  static std::size_t states_bytes(std::uint32_t num_lanes) {
    return sizeof(ControlBlock) + num_lanes * sizeof(LaneState);
  }

  /// Begins with empty lanes in `memory`, which is zeroed and aligned to 8 bytes.
  Lanes(std::byte* memory, const RowExtent& extent, std::uint64_t seed);

  const ControlBlock& control() const { return *control_; }
  const LaneState* states() const { return states_; }
  const Journal& journal() const { return *journal_; }
  std::uint32_t num_lanes() const { return static_cast<std::uint32_t>(control_->num_lanes); }
  /// `rows` is where the rows lie. Lets `sizes`, which are those of these lanes, catch up.
  RowsView view(const std::byte* rows, const RowLayout& layout, LaneSizes& sizes) const;

  /// Where the lane's next row goes, counted in rows from the first of lane 0. A row that was
  /// pushed lane_slots ago is there.
  std::uint64_t next_row_index(std::uint32_t lane) const {
    const LaneState& state = states_[lane];
    std::uint64_t slot = state.pushed - state.lap;
    if (slot == control_->lane_slots) slot = 0;
    return std::uint64_t{lane} * control_->lane_slots + slot;
  }
  /// The flags of the lane's next row, which says of itself whether it `done` or `truncated`.
  std::uint8_t next_flags(std::uint32_t lane, std::uint8_t ends) const {
    const LaneState& state = states_[lane];
    return state.episode == state.pushed ? ends | kFirst : ends;
  }
  /// Makes the row in next_row_index(), whose flags are these, the newest of its lane.
  void commit(std::uint32_t lane, std::uint8_t flags) {
    move_on(lane, 1, (flags & kEnds) != 0 ? states_[lane].pushed + 1 : 0);
  }
  /// commit() for `steps` rows whose flags are unknown here: the lane's episode stays.
  void advance(std::uint32_t lane, std::uint64_t steps);
  /// Takes the episodes and the number of draws from a copy of states_bytes(), which else agrees.
  void adopt(const std::byte* copy);
  struct NewRow {
    std::uint64_t index;
    std::uint8_t flags;
  };
  /// The three in one: makes a row that says of itself whether it ends the newest of its lane.
  NewRow append(std::uint32_t lane, std::uint8_t ends) {
    const NewRow row = {.index = next_row_index(lane), .flags = next_flags(lane, ends)};
    commit(lane, row.flags);
    return row;
  }
  /// Lets the next row of `lane` begin an episode. Returns whether its newest row, which is then to
  /// be marked as truncated, is present and had not ended one.
  bool end_episode(std::uint32_t lane) {
    LaneState& state = states_[lane];
    const bool goes_on = state.episode != state.pushed && state.pushed > state.cleared;
    state.episode = state.pushed;
    return goes_on;
  }
  /// Tells readers that bytes of a row have changed that was there already.
  void patch(RowId row) { journal_->add({.row = row, .is_patch = true}); }
  /// Takes out every row. Serials and episodes go on, so indices from before stay recognisable.
  void clear();
  std::vector<SavedLane> save() const;
  /// Throws ValueError unless there can be such rows, `nbytes` of them.
  void check(std::span<const SavedLane> lanes, std::size_t nbytes) const;
  /// Prepares all lanes for the rows of `lanes`, which pass check(), to be committed again.
  void restore(std::span<const SavedLane> lanes);

  DrawKey next_draw() const { return {.seed = control_->seed, .draw = control_->draws}; }
  void count_draw() { ++control_->draws; }
  void set_draws(std::uint64_t draws) { control_->draws = draws; }
  /// Draws begin again, with another seed.
  void set_seed(std::uint64_t seed) {
    control_->seed = seed;
    control_->draws = 0;
  }

 private:
  /// As LaneState::prepare, and moves the serial on. In the order that Journal states.
  void move_on(std::uint32_t lane, std::uint64_t steps, std::uint64_t ended) {
    LaneState& state = states_[lane];
    const std::uint64_t end = state.pushed + steps;
    state.prepare(steps, control_->lane_slots, ended);
    std::atomic_ref(state.pushed).store(end, std::memory_order_release);
    if (control_->num_lanes > 1) journal_->add({.row = {lane, end - 1}, .is_patch = false});
  }

  ControlBlock* control_;
  LaneState* states_;
  Journal* journal_;
};

}  // namespace velora
