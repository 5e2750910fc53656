#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/macros.h"
#include "core/philox.h"
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
/// episode go on". A plain view for host and device; the memory belongs to a Store or DeviceStore.
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

/// How many rows a buffer has and what they take.
struct RowExtent {
  static constexpr std::uint64_t kMaxLaneCapacity = std::uint64_t{1} << 40;

  std::uint64_t lane_capacity;
  std::uint32_t num_lanes;
  std::uint64_t pitch;

  /// Throws ValueError for a capacity or lane count out of range.
  void check() const;
  /// Bytes of all rows; SIZE_MAX where that overflows.
  std::size_t nbytes() const;
  /// For the message of an allocation that fails: "capacity 1000 at 64 bytes a row".
  std::string describe() const;
};

/// The head of a buffer's memory: everything that must survive with the rows, in one place.
struct ControlBlock {
  std::uint64_t magic;
  std::uint64_t lane_capacity;
  std::uint64_t pitch;
  std::uint64_t seed;
  std::uint64_t draws;  // draws made so far: the counter of the random streams
  std::uint32_t num_lanes;
  std::uint32_t version;
};

/// The control block and the states of all lanes, and the only code that changes them. The rows
/// themselves may lie anywhere: what is here says which are alive and where each goes.
///
/// Lies in host memory that somebody else owns, nbytes(num_lanes) of it. Every operation is O(1),
/// but clear(), which visits each lane. Not synchronised: callers serialise writers and readers.
class Lanes {
 public:
  static std::size_t nbytes(std::uint32_t num_lanes) {
    return sizeof(ControlBlock) + num_lanes * sizeof(LaneState);
  }

  /// Begins with empty lanes in `memory`, which is zeroed and aligned to 8 bytes.
  Lanes(std::byte* memory, const RowExtent& extent, std::uint64_t seed);

  const ControlBlock& control() const { return *control_; }
  const LaneState* states() const { return states_; }
  /// `rows` is where the rows lie, on the host or on a device.
  RowsView view(const std::byte* rows, const RowLayout& layout) const {
    return {.rows = rows,
            .pitch = control_->pitch,
            .flags_offset = layout.flags_offset(),
            .lane_capacity = control_->lane_capacity,
            .lanes = states_,
            .num_lanes = control_->num_lanes};
  }

  /// Where the lane's next row goes, counted in rows from the first of lane 0. Its oldest row is
  /// there where the ring is full.
  std::uint64_t next_place(std::uint32_t lane) const {
    const LaneState& state = states_[lane];
    std::uint64_t slot = state.pushed - state.turn;
    if (slot == control_->lane_capacity) slot = 0;
    return std::uint64_t{lane} * control_->lane_capacity + slot;
  }
  /// Makes the row in next_place() the newest of its lane.
  void commit(std::uint32_t lane) {
    LaneState& state = states_[lane];
    if (state.pushed - state.turn == control_->lane_capacity) state.turn = state.pushed;
    ++state.pushed;
  }
  /// Takes `count` serials that are never stored: rows that newer ones of the same call push out.
  /// Everything older goes too.
  void skip(std::uint32_t lane, std::uint64_t count);
  /// Takes out every row. Serials go on, so indices from before stay recognisable.
  void clear();
  /// Prepares `lane` for `count` rows to be committed again, the last with serial `pushed - 1`.
  /// Throws ValueError when there cannot be such rows.
  void rewind(std::uint32_t lane, std::uint64_t pushed, std::uint64_t count);

  DrawKey next_draw() const { return {.seed = control_->seed, .draw = control_->draws}; }
  void count_draw() { ++control_->draws; }
  void set_draws(std::uint64_t draws) { control_->draws = draws; }

 private:
  ControlBlock* control_;
  LaneState* states_;
};

}  // namespace velora
