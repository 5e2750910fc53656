#pragma once

#include <cstddef>
#include <cstdint>

#include "core/rows/row_layout.h"

namespace velora {

/// Rows that are about to be stored, field by field: the rows of a field lie packed one after the
/// other.
struct RowSource {
  const std::byte* const* fields;  // one for each field of the layout
  const std::byte* done;           // a byte for each row: not zero where its step terminated
  const std::byte* truncated;      // where it was cut off; null: nowhere
  /// One for each row, which Storage::reserve_priorities() has seen; null: rows have none of their
  /// own.
  const float* priorities = nullptr;

  std::uint8_t flags(std::size_t i) const {
    const bool cut = truncated != nullptr && truncated[i] != std::byte{0};
    return static_cast<std::uint8_t>((done[i] != std::byte{0} ? kDone : 0) |
                                     (cut ? kTruncated : 0));
  }
};

/// Which lane each of some rows goes to.
struct LaneOrder {
  const std::uint32_t* lanes;  // one for each row; null: all lanes in turn
  std::uint32_t num_lanes;
  std::uint32_t first = 0;  // of all in turn, the lane of row 0

  /// That of the rows from number `row` on.
  LaneOrder from(std::size_t row) const {
    if (lanes != nullptr) return {.lanes = lanes + row, .num_lanes = num_lanes};
    const auto lane = static_cast<std::uint32_t>((first + row) % num_lanes);
    return {.lanes = nullptr, .num_lanes = num_lanes, .first = lane};
  }
  std::uint32_t before_first() const { return (first == 0 ? num_lanes : first) - 1; }
  /// The lane of row `i`, where that of the row before is `previous`.
  std::uint32_t next(std::size_t i, std::uint32_t previous) const {
    if (lanes != nullptr) return lanes[i];
    return previous + 1 == num_lanes ? 0 : previous + 1;
  }
};

/// Neighbouring lanes.
struct LaneRange {
  std::uint32_t first;
  std::uint32_t count;
};

/// Rows as columns, some of which lie in the device's memory, as flags of one byte each.
struct MixedSource {
  RowSource rows;
  const bool* on_device;  // one for each field
  bool done_on_device;
  bool truncated_on_device;
};

}  // namespace velora
