#pragma once

#include <cstddef>
#include <cstdint>

#include "core/macros.h"
#include "core/row_layout.h"

namespace velora {

/// The name of one row for ever: its lane and its serial number in it, in 63 bits, so that it
/// travels as a non-negative int64. Serials count every row ever pushed to the lane.
struct RowId {
  static constexpr int kSerialBits = 47;
  static constexpr std::uint64_t kMaxSerial = (std::uint64_t{1} << kSerialBits) - 1;
  static constexpr std::uint32_t kMaxLanes = 1u << 16;

  std::uint32_t lane;
  std::uint64_t serial;

  VELORA_HD constexpr std::uint64_t packed() const {
    return (std::uint64_t{lane} << kSerialBits) | serial;
  }
  VELORA_HD static constexpr RowId unpack(std::uint64_t packed) {
    return {static_cast<std::uint32_t>(packed >> kSerialBits), packed & kMaxSerial};
  }
  friend constexpr bool operator==(const RowId&, const RowId&) = default;
};

/// One lane's place in its ring. Rows [begin, pushed) are alive.
struct LaneState {
  std::uint64_t pushed;   // rows ever pushed: the serial of the next one
  std::uint64_t cleared;  // rows before this serial were taken out by empty()
  std::uint64_t turn;     // serial of the newest row in slot 0; saves a division in slot()
};

/// The rows of all lanes and the only answers to "is this row alive", "where is it" and "does its
/// episode go on". A plain view for host and device; the memory belongs to a Store.
///
/// Invariant: the slot of serial s is s % lane_capacity, and s is alive iff it is among the
/// newest lane_capacity rows of its lane and was not cleared.
struct RowsView {
  const std::byte* rows;
  std::uint64_t pitch;
  std::uint64_t flags_offset;
  std::uint64_t lane_capacity;
  const LaneState* lanes;
  std::uint32_t num_lanes;

  VELORA_HD std::uint64_t begin(std::uint32_t lane) const {
    const LaneState& state = lanes[lane];
    const std::uint64_t oldest =
        state.pushed > lane_capacity ? state.pushed - lane_capacity : std::uint64_t{0};
    return oldest > state.cleared ? oldest : state.cleared;
  }
  VELORA_HD std::uint64_t end(std::uint32_t lane) const { return lanes[lane].pushed; }
  VELORA_HD std::uint64_t size(std::uint32_t lane) const { return end(lane) - begin(lane); }

  VELORA_HD bool alive(RowId id) const {
    return id.lane < num_lanes && id.serial >= begin(id.lane) && id.serial < end(id.lane);
  }

  /// Precondition: alive(id).
  VELORA_HD std::uint64_t slot(RowId id) const {
    const std::uint64_t turn = lanes[id.lane].turn;
    return id.serial >= turn ? id.serial - turn : id.serial + lane_capacity - turn;
  }

  /// Precondition: alive(id).
  VELORA_HD const std::byte* row(RowId id) const {
    return rows + (std::uint64_t{id.lane} * lane_capacity + slot(id)) * pitch;
  }

  VELORA_HD std::uint8_t flags(RowId id) const {
    return static_cast<std::uint8_t>(row(id)[flags_offset]);
  }

  /// The boundary: is the step after row `id` part of the same episode, and is it here? No after
  /// `done` or `truncated`, at the newest row of a lane, and for a row that is not alive.
  VELORA_HD bool continues(RowId id) const {
    return alive(id) && id.serial + 1 < end(id.lane) && (flags(id) & (kDone | kTruncated)) == 0;
  }
};

}  // namespace velora
