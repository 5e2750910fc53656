#include "core/host/check_saved.h"

#include <string>

#include "core/values/errors.h"

namespace velora {
namespace {

/// The flags of one lane's rows are those that its pushes would have written.
void check_flags(const SavedLane& lane, const std::byte* rows, std::size_t pitch,
                 std::size_t flags_offset) {
  constexpr std::uint64_t kBefore = UINT64_MAX;  // it began before all of these rows
  std::uint64_t episode = lane.first == 0 ? 0 : kBefore;
  for (std::uint64_t serial = lane.first; serial < lane.pushed; ++serial, rows += pitch) {
    const auto flags = static_cast<std::uint8_t>(rows[flags_offset]);
    const bool begins = (flags & kFirst) != 0;
    const bool is_known = episode != kBefore || serial > lane.first;
    if (flags > (kEnds | kFirst) || (is_known && begins != (episode == serial))) {
      throw ValueError("rows: expected flags that say where episodes begin and end, got " +
                       std::to_string(flags) + " at serial " + std::to_string(serial));
    }
    if (begins) episode = serial;
    if ((flags & kEnds) != 0) episode = serial + 1;
  }
  if (lane.first == lane.pushed) return;
  if (episode == kBefore ? lane.episode < lane.first : lane.episode == episode) return;
  throw ValueError("lanes: expected the episode that flags of rows tell of, got one from serial " +
                   std::to_string(lane.episode) + " on");
}

}  // namespace

std::size_t check_saved(const SavedRows& saved, const Lanes& lanes, const RowLayout& layout,
                        const CompactRule* compact) {
  const std::size_t pitch = layout.pitch();
  lanes.check(saved.lanes, saved.rows.size());
  const std::byte* rows = saved.rows.data();
  for (const SavedLane& lane : saved.lanes) {
    check_flags(lane, rows, pitch, layout.flags_offset());
    rows += (lane.pushed - lane.first) * pitch;
  }
  if (compact != nullptr) {
    return compact->check_all(saved.lanes, saved.rows, pitch, lanes.control().lane_capacity,
                              saved.blocks.size());
  }
  if (!saved.blocks.empty()) {
    throw ValueError("blocks: expected none beside whole rows, got " +
                     std::to_string(saved.blocks.size()) + " bytes");
  }
  return 0;
}

BoolFields::BoolFields(const RowLayout& layout) {
  for (const Field& field : layout.fields()) {
    if (field.dtype != DType::kBool) continue;
    const bool is_next = field.role == Role::kNextState;
    if (!layout.compact() || !is_next)
      in_rows_.push_back({field.offset, field.nbytes / field.frames});
    if (layout.compact() && field.role == Role::kState) {
      in_blocks_.push_back({field.block_offset, field.nbytes});
    }
  }
}

void BoolFields::clean(std::byte* bytes, const std::vector<Run>& runs) {
  for (const Run& run : runs) {
    for (std::size_t i = 0; i < run.nbytes; ++i) {
      std::byte& flag = bytes[run.offset + i];
      flag = std::byte{flag != std::byte{0}};
    }
  }
}

}  // namespace velora
