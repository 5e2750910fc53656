#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/launch.h"
#include "core/rows/count_tree.h"
#include "core/rows/lane_sizes.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/rows_view.h"

namespace velora {

/// State of a device besides the rows: copies of the states of Lanes and of their LaneSizes, byte
/// for byte, which launches that append rows move on by themselves; and words with which launches
/// count. Non-owning, only addresses.
class DeviceHead {
 public:
  static std::size_t nbytes(std::uint32_t num_lanes) {
    return arrived_offset(num_lanes) + num_parts(num_lanes) * sizeof(std::uint32_t);
  }

  DeviceHead(std::byte* memory, std::uint32_t num_lanes) : memory_(memory), num_lanes_(num_lanes) {}

  std::byte* data() const { return memory_; }
  ControlBlock* control() const { return reinterpret_cast<ControlBlock*>(memory_); }
  LaneState* states() const { return reinterpret_cast<LaneState*>(memory_ + sizeof(ControlBlock)); }
  std::uint64_t* sizes_words() const {
    return reinterpret_cast<std::uint64_t*>(memory_ + Lanes::states_bytes(num_lanes_));
  }
  CountTree sizes() const { return CountTree::in(sizes_words(), num_lanes_); }
  /// Live rows of the fullest lane: the last word of the sizes.
  std::uint64_t* largest() const { return sizes_words() + LaneSizes::num_words(num_lanes_) - 1; }
  LaunchCounters* counters() const {
    return reinterpret_cast<LaunchCounters*>(memory_ + copied_bytes(num_lanes_));
  }
  /// As in AppendParams.
  std::uint64_t* ended() const {
    return reinterpret_cast<std::uint64_t*>(memory_ + ended_offset(num_lanes_));
  }
  std::uint32_t* arrived() const {
    return reinterpret_cast<std::uint32_t*>(memory_ + arrived_offset(num_lanes_));
  }

  /// Of the states and the sizes, which come first.
  static std::size_t copied_bytes(std::uint32_t num_lanes) {
    return Lanes::states_bytes(num_lanes) + LaneSizes::num_words(num_lanes) * sizeof(std::uint64_t);
  }

 private:
  static std::size_t ended_offset(std::uint32_t num_lanes) {
    return copied_bytes(num_lanes) + sizeof(LaunchCounters);
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
