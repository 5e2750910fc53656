#include "core/lanes.h"

#include <algorithm>
#include <string>

#include "core/errors.h"

namespace velora {
namespace {

constexpr std::uint64_t kMagic = 0x61726f6c6576;  // "velora", little endian
constexpr std::uint32_t kVersion = 1;

}  // namespace

void RowExtent::check() const {
  if (lane_capacity == 0 || lane_capacity > kMaxLaneCapacity) {
    throw ValueError("capacity: expected 1 to 2**40 rows for each lane, got " +
                     std::to_string(lane_capacity));
  }
  if (num_lanes == 0 || num_lanes > RowId::kMaxLanes) {
    throw ValueError("num_envs: expected 1 to " + std::to_string(RowId::kMaxLanes) + ", got " +
                     std::to_string(num_lanes));
  }
}

std::size_t RowExtent::nbytes() const {
  const std::uint64_t rows = lane_capacity * num_lanes;  // at most 2**56
  return rows > SIZE_MAX / pitch ? SIZE_MAX : rows * pitch;
}

std::string RowExtent::describe() const {
  return "capacity " + std::to_string(lane_capacity * num_lanes) + " at " + std::to_string(pitch) +
         " bytes a row";
}

Lanes::Lanes(std::byte* memory, const RowExtent& extent, std::uint64_t seed)
    : control_(reinterpret_cast<ControlBlock*>(memory)),
      states_(reinterpret_cast<LaneState*>(memory + sizeof(ControlBlock))) {
  *control_ = {.magic = kMagic,
               .lane_capacity = extent.lane_capacity,
               .pitch = extent.pitch,
               .seed = seed,
               .draws = 0,
               .num_lanes = extent.num_lanes,
               .version = kVersion};
}

void Lanes::skip(std::uint32_t lane, std::uint64_t count) {
  LaneState& state = states_[lane];
  // What lies between is not written: clear it, so that no stale row looks alive.
  state.pushed += count;
  state.cleared = state.pushed;
  state.turn = state.pushed - state.pushed % control_->lane_capacity;
}

void Lanes::clear() {
  for (std::uint32_t lane = 0; lane < control_->num_lanes; ++lane) {
    states_[lane].cleared = states_[lane].pushed;
  }
}

void Lanes::rewind(std::uint32_t lane, std::uint64_t pushed, std::uint64_t count) {
  const std::uint64_t most = std::min(control_->lane_capacity, pushed);
  if (count > most || pushed > RowId::kMaxSerial / 2) {
    throw ValueError("rows: expected at most " + std::to_string(most) + " of the " +
                     std::to_string(pushed) + " pushed, got " + std::to_string(count));
  }
  states_[lane] = {.pushed = 0, .cleared = 0, .turn = 0};
  skip(lane, pushed - count);
}

}  // namespace velora
