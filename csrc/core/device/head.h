#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/launch.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/rows_view.h"

namespace velora {

/// What a device has besides the rows: a copy of all that Lanes has, byte for byte, and words with
/// which launches count. Only addresses: the memory is somebody else's.
class DeviceHead {
 public:
  static std::size_t nbytes(std::uint32_t num_lanes) {
    return arrived_offset(num_lanes) + num_parts(num_lanes) * sizeof(std::uint32_t);
  }

  DeviceHead(std::byte* memory, std::uint32_t num_lanes) : memory_(memory), num_lanes_(num_lanes) {}

  std::byte* data() const { return memory_; }
  ControlBlock* control() const { return reinterpret_cast<ControlBlock*>(memory_); }
  LaneState* states() const { return reinterpret_cast<LaneState*>(memory_ + sizeof(ControlBlock)); }
  LaunchCounters* counters() const {
    return reinterpret_cast<LaunchCounters*>(memory_ + Lanes::nbytes(num_lanes_));
  }
  /// As in AppendParams.
  std::uint64_t* ended() const {
    return reinterpret_cast<std::uint64_t*>(memory_ + ended_offset(num_lanes_));
  }
  std::uint32_t* arrived() const {
    return reinterpret_cast<std::uint32_t*>(memory_ + arrived_offset(num_lanes_));
  }

 private:
  static std::size_t ended_offset(std::uint32_t num_lanes) {
    return Lanes::nbytes(num_lanes) + sizeof(LaunchCounters);
  }
  static std::size_t arrived_offset(std::uint32_t num_lanes) {
    return ended_offset(num_lanes) + num_lanes * sizeof(std::uint64_t);
  }
  static std::size_t num_parts(std::uint32_t num_lanes) {
    return (num_lanes + std::size_t{kLanesOfGroup} - 1) / kLanesOfGroup;
  }

  std::byte* memory_;
  std::uint32_t num_lanes_;
};

}  // namespace velora
