#include "core/rows/lanes.h"

#include <algorithm>
#include <string>

#include "core/values/errors.h"

namespace velora {

Lanes::Lanes(std::byte* memory, const RowExtent& extent, std::uint64_t seed)
    : control_(reinterpret_cast<ControlBlock*>(memory)),
      states_(reinterpret_cast<LaneState*>(memory + sizeof(ControlBlock))),
      journal_(Journal::create(memory + states_bytes(extent.num_lanes), extent.num_lanes)) {
  *control_ = {.lane_capacity = extent.lane_capacity,
               .lane_slots = extent.lane_slots(),
               .pitch = extent.pitch,
               .seed = seed,
               .draws = 0,
               .num_lanes = extent.num_lanes};
}

RowsView Lanes::view(const std::byte* rows, const RowLayout& layout, LaneSizes& sizes) const {
  RowsView view = {.rows = rows,
                   .pitch = control_->pitch,
                   .flags_offset = layout.flags_offset(),
                   .lane_capacity = control_->lane_capacity,
                   .lane_slots = control_->lane_slots,
                   .lanes = states_,
                   .num_lanes = num_lanes(),
                   .sizes = sizes.tree(),
                   .largest = sizes.largest(),
                   .even_size = 0,
                   .journal = journal_};
  sizes.catch_up(view);
  view.even_size = view.find_even_size();
  return view;
}

void Lanes::advance(std::uint32_t lane, std::uint64_t steps) {
  if (steps > 0) move_on(lane, steps, 0);
}

void Lanes::adopt(const std::byte* copy) {
  control_->draws = reinterpret_cast<const ControlBlock*>(copy)->draws;
  const auto* states = reinterpret_cast<const LaneState*>(copy + sizeof(ControlBlock));
  for (std::uint32_t lane = 0; lane < num_lanes(); ++lane) {
    states_[lane].episode = states[lane].episode;
  }
}

void Lanes::clear() {
  for (std::uint32_t lane = 0; lane < num_lanes(); ++lane) {
    states_[lane].cleared = states_[lane].pushed;
  }
  journal_->reset();
}

std::vector<SavedLane> Lanes::save() const {
  std::vector<SavedLane> saved;
  for (std::uint32_t lane = 0; lane < num_lanes(); ++lane) {
    const LaneState& state = states_[lane];
    saved.push_back({.first = state.oldest(control_->lane_slots),
                     .pushed = state.pushed,
                     .episode = state.episode});
  }
  return saved;
}

void Lanes::check(std::span<const SavedLane> lanes, std::size_t nbytes) const {
  if (lanes.size() != num_lanes()) {
    throw ValueError("lanes: expected " + std::to_string(num_lanes()) + ", got " +
                     std::to_string(lanes.size()));
  }
  std::uint64_t rows = 0;
  for (const SavedLane& lane : lanes) {
    if (lane.first > lane.pushed || lane.pushed - lane.first > control_->lane_slots ||
        lane.pushed >= RowId::kMaxSerial || lane.episode > lane.pushed) {
      throw ValueError("lanes: expected at most " + std::to_string(control_->lane_slots) +
                       " rows in each, got serials " + std::to_string(lane.first) + " to " +
                       std::to_string(lane.pushed));
    }
    rows += lane.pushed - lane.first;
  }
  if (nbytes % control_->pitch != 0 || nbytes / control_->pitch != rows) {
    throw ValueError("rows: expected " + std::to_string(rows) + " whole rows of " +
                     std::to_string(control_->pitch) + " bytes, got " + std::to_string(nbytes) +
                     " bytes");
  }
}

void Lanes::restore(std::span<const SavedLane> lanes) {
  for (std::uint32_t lane = 0; lane < num_lanes(); ++lane) {
    const std::uint64_t first = lanes[lane].first;
    states_[lane] = {.pushed = first,
                     .cleared = first,
                     .lap = first - first % control_->lane_slots,
                     .episode = std::min(lanes[lane].episode, first)};
  }
  journal_->reset();
}

}  // namespace velora
