#include "core/rows/row_extent.h"

#include "core/rows/rows_view.h"
#include "core/values/errors.h"

namespace velora {

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
  const std::uint64_t rows = lane_slots() * num_lanes;  // at most 2**57
  return rows > SIZE_MAX / pitch ? SIZE_MAX : rows * pitch;
}

std::string RowExtent::describe() const {
  return "capacity " + std::to_string(lane_capacity * num_lanes) + " at " + std::to_string(pitch) +
         " bytes a row";
}

}  // namespace velora
