#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace velora {

/// How many rows a buffer has and what they take.
struct RowExtent {
  static constexpr std::uint64_t kMaxLaneCapacity = std::uint64_t{1} << 40;

  std::uint64_t lane_capacity;
  std::uint32_t num_lanes;
  std::uint64_t pitch;
  /// Slots in each ring beyond the capacity, for rows that are no longer alive but still read.
  std::uint64_t spare_slots = 0;

  std::uint64_t lane_slots() const { return lane_capacity + spare_slots; }
  /// Throws ValueError for a capacity or lane count out of range.
  void check() const;
  /// Bytes of all rows; SIZE_MAX where that overflows.
  std::size_t nbytes() const;
  /// For the message of an allocation that fails: "capacity 1000 at 64 bytes a row".
  std::string describe() const;
};

}  // namespace velora
