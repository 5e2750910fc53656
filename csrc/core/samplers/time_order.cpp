#include "core/samplers/time_order.h"

#include <algorithm>

namespace velora {
namespace {

/// Rows of all lanes that come before those at `rank`.
std::uint64_t rows_before(const RowsView& view, std::uint64_t rank) {
  std::uint64_t rows = 0;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    rows += std::min(view.size(lane), rank);
  }
  return rows;
}

/// The rank of the row at `position`.
std::uint64_t rank_of(const RowsView& view, std::uint64_t position) {
  std::uint64_t low = 0;
  std::uint64_t high = view.lane_capacity;
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (rows_before(view, middle) <= position ? low : high) = middle;
  }
  return low;
}

}  // namespace

void find_in_time_order(const RowsView& view, std::uint64_t start, std::uint64_t count,
                        RowIds& out) {
  out.clear();
  out.reserve(count);
  if (view.is_even()) {
    for (std::uint64_t position = start; position < start + count; ++position) {
      out.push_back(view.in_time_order(position));
    }
    return;
  }
  std::uint64_t rank = rank_of(view, start);
  std::uint64_t before = start - rows_before(view, rank);
  std::vector<std::uint32_t> lanes;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) lanes.push_back(lane);
  for (; out.size() < count; ++rank) {
    std::erase_if(lanes, [&](std::uint32_t lane) { return view.size(lane) <= rank; });
    for (const std::uint32_t lane : lanes) {
      if (before > 0) {
        --before;
      } else if (out.size() < count) {
        out.push_back({lane, view.begin(lane) + rank});
      }
    }
  }
}

}  // namespace velora
