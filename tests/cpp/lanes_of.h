#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/rows/lane_sizes.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/rows_view.h"

namespace velora::testing {

/// Lanes over rows that hold nothing but flags.
class LanesOf {
 public:
  static constexpr std::uint64_t kPitch = 16;

  LanesOf(std::uint64_t capacity, std::uint32_t num_lanes, std::uint64_t spare_slots = 0)
      : layout_(std::vector<Field>{}),
        memory_(Lanes::nbytes(num_lanes) / sizeof(std::uint64_t)),
        rows_((capacity + spare_slots) * num_lanes * kPitch),
        sizes_(num_lanes),
        lanes(reinterpret_cast<std::byte*>(memory_.data()),
              {capacity, num_lanes, kPitch, spare_slots}, 7) {}

  void push(std::uint32_t lane, std::uint8_t ends = 0) {
    const std::uint8_t flags = lanes.next_flags(lane, ends);
    rows_[lanes.next_row_index(lane) * kPitch] = std::byte{flags};
    lanes.commit(lane, flags);
  }
  void push_many(std::uint32_t lane, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) push(lane);
  }
  /// As Store::end_episode.
  void end_episode(std::uint32_t lane) {
    if (!lanes.end_episode(lane)) return;
    const RowId newest = {lane, view().end(lane) - 1};
    rows_[view().row_index(newest) * kPitch] |= std::byte{kTruncated};
    lanes.patch(newest);
  }
  RowsView view() const { return lanes.view(rows_.data(), layout_, sizes_); }

 private:
  RowLayout layout_;
  std::vector<std::uint64_t> memory_;
  std::vector<std::byte> rows_;
  mutable LaneSizes sizes_;

 public:
  Lanes lanes;
};

}  // namespace velora::testing
