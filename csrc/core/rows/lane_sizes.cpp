#include "core/rows/lane_sizes.h"

#include <algorithm>

namespace velora {

void LaneSizes::catch_up_lanes(const RowsView& view) {
  const bool full = tree_.total() == view.lane_capacity * view.num_lanes;
  if (full && cursor_.has_seen_resets_of(*view.journal)) return;
  std::uint64_t& largest = words_.back();
  const auto update = [&](std::uint32_t lane) {
    const std::uint64_t size = size_of(view, lane);
    const std::uint64_t change = size - tree_.levels[0][lane];
    if (change != 0) tree_.add(lane, static_cast<std::int64_t>(change));
    largest = std::max(largest, size);
  };
  cursor_.each_lane(*view.journal, view.num_lanes, [&] { largest = 0; }, update);
}

}  // namespace velora
