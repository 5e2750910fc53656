#include "core/rows/lanes.h"

#include <algorithm>
#include <string>

#include "core/values/errors.h"

namespace velora {
namespace {

CountTree sizes_behind(const LaneState* states, std::uint32_t num_lanes) {
  auto* memory = const_cast<LaneState*>(states + num_lanes);
  return CountTree::in(reinterpret_cast<std::uint64_t*>(memory), num_lanes);
}

}  // namespace

Lanes::Lanes(std::byte* memory, const RowExtent& extent, std::uint64_t seed)
    : control_(reinterpret_cast<ControlBlock*>(memory)),
      states_(reinterpret_cast<LaneState*>(memory + sizeof(ControlBlock))),
      sizes_(sizes_behind(states_, extent.num_lanes)) {
  *control_ = {.lane_capacity = extent.lane_capacity,
               .lane_slots = extent.lane_slots(),
               .pitch = extent.pitch,
               .seed = seed,
               .draws = 0,
               .largest = 0,
               .num_lanes = extent.num_lanes};
}

RowsView Lanes::view(const std::byte* rows, const RowLayout& layout,
                     const LaneState* states) const {
  const bool even = sizes_.total() == control_->largest * control_->num_lanes;
  return {.rows = rows,
          .pitch = control_->pitch,
          .flags_offset = layout.flags_offset(),
          .lane_capacity = control_->lane_capacity,
          .lane_slots = control_->lane_slots,
          .lanes = states,
          .num_lanes = num_lanes(),
          .sizes = sizes_behind(states, num_lanes()),
          .even_size = even ? control_->largest : 0};
}

void Lanes::advance(std::uint32_t lane, std::uint64_t steps) {
  if (steps == 0) return;
  LaneState& state = states_[lane];
  const auto size = [&] { return state.pushed - state.oldest(control_->lane_capacity); };
  const std::uint64_t before = size();
  state.pushed += steps;
  state.turn = (state.pushed - 1) / control_->lane_slots * control_->lane_slots;
  sizes_.add(lane, static_cast<std::int64_t>(size() - before));
  control_->largest = std::max(control_->largest, size());
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
  sizes_.clear(num_lanes());
  control_->largest = 0;
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
  clear();
  for (std::uint32_t lane = 0; lane < num_lanes(); ++lane) {
    const std::uint64_t first = lanes[lane].first;
    states_[lane] = {.pushed = first,
                     .cleared = first,
                     .turn = first - first % control_->lane_slots,
                     .episode = std::min(lanes[lane].episode, first)};
  }
}

}  // namespace velora
