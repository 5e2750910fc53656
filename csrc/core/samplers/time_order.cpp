#include "core/samplers/time_order.h"

#include <algorithm>
#include <string>

#include "core/values/errors.h"

namespace velora {

std::uint64_t TimeOrder::size() const {
  const std::uint64_t rows = view_->size();
  return start_ < rows ? rows - start_ : 0;
}

/// Rows of all lanes that come before those at `rank`.
std::uint64_t TimeOrder::rows_before(std::uint64_t rank) const {
  std::uint64_t rows = 0;
  for (std::uint32_t lane = 0; lane < view_->num_lanes; ++lane) {
    rows += std::min(view_->size(lane), rank);
  }
  return rows;
}

/// The rank of the row at `position`.
std::uint64_t TimeOrder::rank_of(std::uint64_t position) const {
  std::uint64_t low = 0;
  std::uint64_t high = view_->lane_capacity;
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (rows_before(middle) <= position ? low : high) = middle;
  }
  return low;
}

void TimeOrder::keep_longer_lanes() {
  std::erase_if(lanes_, [this](std::uint32_t lane) { return view_->size(lane) <= rank_; });
}

void TimeOrder::begin(DrawKey /*key*/, std::size_t count) {
  if (count > size()) {
    throw ValueError("rows: expected a part of the " + std::to_string(view_->size()) +
                     " that there are, got " + std::to_string(count) + " from " +
                     std::to_string(start_));
  }
  position_ = start_;
  if (view_->is_even()) return;
  lanes_.clear();
  for (std::uint32_t lane = 0; lane < view_->num_lanes; ++lane) lanes_.push_back(lane);
  rank_ = rank_of(start_);
  keep_longer_lanes();
  next_lane_ = start_ - rows_before(rank_);
}

void TimeOrder::next(std::span<RowId> out) {
  if (view_->is_even()) {
    for (RowId& id : out) id = view_->in_time_order(position_++);
    return;
  }
  for (RowId& id : out) {
    if (next_lane_ == lanes_.size()) {
      ++rank_;
      keep_longer_lanes();
      next_lane_ = 0;
    }
    const std::uint32_t lane = lanes_[next_lane_++];
    id = {lane, view_->begin(lane) + rank_};
  }
}

}  // namespace velora
