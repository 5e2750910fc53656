#include "core/store.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "core/errors.h"

namespace velora {
namespace {

constexpr std::uint64_t kMagic = 0x61726f6c6576;  // "velora", little endian
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kPage = 4096;

}  // namespace

Store::Store(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
             std::uint64_t seed)
    : layout_(std::move(layout)) {
  if (lane_capacity == 0 || lane_capacity > kMaxLaneCapacity) {
    throw ValueError("capacity: expected 1 to 2**40 rows for each lane, got " +
                     std::to_string(lane_capacity));
  }
  if (num_lanes == 0 || num_lanes > RowId::kMaxLanes) {
    throw ValueError("num_envs: expected 1 to " + std::to_string(RowId::kMaxLanes) + ", got " +
                     std::to_string(num_lanes));
  }
  const std::size_t head = sizeof(ControlBlock) + num_lanes * sizeof(LaneState);
  rows_offset_ = (head + kPage - 1) / kPage * kPage;

  const std::uint64_t total_rows = lane_capacity * num_lanes;  // at most 2**56
  const std::string purpose = "capacity " + std::to_string(total_rows) + " at " +
                              std::to_string(layout_.pitch()) + " bytes a row";
  const bool overflow = total_rows > (SIZE_MAX - rows_offset_) / layout_.pitch();
  const std::size_t bytes = overflow ? SIZE_MAX : rows_offset_ + total_rows * layout_.pitch();
  memory_ = Memory::anonymous(bytes, purpose.c_str());

  control() = {.magic = kMagic,
               .lane_capacity = lane_capacity,
               .pitch = layout_.pitch(),
               .seed = seed,
               .draws = 0,
               .num_lanes = num_lanes,
               .version = kVersion};
}

RowsView Store::view() const {
  return {.rows = rows(),
          .pitch = layout_.pitch(),
          .flags_offset = layout_.flags_offset(),
          .lane_capacity = control().lane_capacity,
          .lanes = lane_states(),
          .num_lanes = control().num_lanes};
}

LaneState* Store::lane_states() const {
  return reinterpret_cast<LaneState*>(memory_.data() + sizeof(ControlBlock));
}

std::byte* Store::slot_memory(std::uint32_t lane, std::uint64_t slot) const {
  return rows() + (std::uint64_t{lane} * control().lane_capacity + slot) * layout_.pitch();
}

std::byte* Store::next_row(std::uint32_t lane) {
  const LaneState& state = lane_states()[lane];
  std::uint64_t slot = state.pushed - state.turn;
  if (slot == control().lane_capacity) slot = 0;
  return slot_memory(lane, slot);
}

void Store::commit(std::uint32_t lane) {
  LaneState& state = lane_states()[lane];
  if (state.pushed - state.turn == control().lane_capacity) state.turn = state.pushed;
  ++state.pushed;
}

void Store::skip(std::uint32_t lane, std::uint64_t count) {
  LaneState& state = lane_states()[lane];
  // What lies between is not written: clear it, so that no stale row looks alive.
  state.pushed += count;
  state.cleared = state.pushed;
  state.turn = state.pushed - state.pushed % control().lane_capacity;
}

void Store::clear() {
  for (std::uint32_t lane = 0; lane < control().num_lanes; ++lane) {
    lane_states()[lane].cleared = lane_states()[lane].pushed;
  }
}

void Store::restore(std::uint32_t lane, std::uint64_t pushed, std::span<const std::byte> rows) {
  const std::uint64_t pitch = layout_.pitch();
  const std::uint64_t count = rows.size() / pitch;
  const std::uint64_t capacity = control().lane_capacity;
  if (rows.size() % pitch != 0 || count > capacity || count > pushed ||
      pushed > RowId::kMaxSerial) {
    throw ValueError("rows: expected whole rows of " + std::to_string(pitch) + " bytes, at most " +
                     std::to_string(std::min(capacity, pushed)) + ", got " +
                     std::to_string(rows.size()) + " bytes");
  }
  lane_states()[lane] = {.pushed = 0, .cleared = 0, .turn = 0};
  skip(lane, pushed - count);
  for (std::uint64_t i = 0; i < count; ++i) {
    std::memcpy(next_row(lane), rows.data() + i * pitch, pitch);
    commit(lane);
  }
}

void Store::copy_rows(std::uint32_t lane, std::span<std::byte> rows) const {
  const RowsView view = this->view();
  std::byte* out = rows.data();
  for (std::uint64_t serial = view.begin(lane); serial < view.end(lane); ++serial) {
    std::memcpy(out, view.row({lane, serial}), view.pitch);
    out += view.pitch;
  }
}

}  // namespace velora
