#pragma once

#include <cstddef>
#include <cstdint>

#include "core/rows/count_tree.h"
#include "core/rows/row_layout.h"
#include "core/values/macros.h"

namespace velora {

class Journal;

/// The name of one row for ever: its lane and its serial number in it, in 63 bits, so that it
/// travels as a non-negative int64. Serials count every row ever pushed to the lane.
struct RowId {
  static constexpr int kSerialBits = 47;
  static constexpr std::uint64_t kMaxSerial = (std::uint64_t{1} << kSerialBits) - 1;
  static constexpr std::uint32_t kMaxLanes = 1u << 16;
  /// Of no row.
  static constexpr std::uint32_t kNoLane = UINT32_MAX;

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

/// The state of one lane's ring.
struct LaneState {
  std::uint64_t pushed;   // rows ever pushed: the serial of the next one
  std::uint64_t cleared;  // rows before this serial were taken out by clear()
  std::uint64_t lap;      // serial of the newest row in slot 0; saves a division in slot()
  std::uint64_t episode;  // serial of the first row of the episode that the next row belongs to

  /// The oldest row that was not cleared, where the newest `kept` are there.
  VELORA_HD std::uint64_t oldest(std::uint64_t kept) const {
    const std::uint64_t first = pushed > kept ? pushed - kept : std::uint64_t{0};
    return first > cleared ? first : cleared;
  }
  /// Makes room for `steps` > 0 more rows in a ring of `slots`, which count once `pushed` is moved
  /// on by as many. `ended` is one past the serial of the newest of them that ended an episode; 0:
  /// none did.
  VELORA_HD void prepare(std::uint64_t steps, std::uint64_t slots, std::uint64_t ended) {
    const std::uint64_t newest = pushed + steps - 1;
    if (newest - lap >= slots) lap = newest / slots * slots;
    if (ended > episode) episode = ended;
  }
};

/// The rows of all lanes and the only answers to "is this row alive", "where is it" and "does its
/// episode go on". A plain view for host and device; the memory belongs to a Store or DeviceStore.
///
/// Invariant: the slot of serial s is s % lane_slots, and s is alive iff it is among the
/// newest lane_capacity rows of its lane and was not cleared.
struct RowsView {
  const std::byte* rows;
  std::uint64_t pitch;
  std::uint64_t flags_offset;
  std::uint64_t lane_capacity;
  std::uint64_t lane_slots;  // slots of a ring: more than the capacity where frames stack up
  const LaneState* lanes;
  std::uint32_t num_lanes;
  CountTree sizes;               // live rows of each lane
  const std::uint64_t* largest;  // live rows of the fullest lane
  std::uint64_t even_size;       // of every lane, where all have the same; 0: look at `sizes`
  const Journal* journal;        // of the lanes; null on a device

  VELORA_HD std::uint64_t begin(std::uint32_t lane) const {
    return lanes[lane].oldest(lane_capacity);
  }
  VELORA_HD std::uint64_t end(std::uint32_t lane) const { return lanes[lane].pushed; }
  /// The oldest row of a lane that is still in its slot; older than begin() in rings with slots
  /// to spare.
  VELORA_HD std::uint64_t present(std::uint32_t lane) const {
    return lanes[lane].oldest(lane_slots);
  }
  VELORA_HD std::uint64_t size(std::uint32_t lane) const { return end(lane) - begin(lane); }
  /// Live rows of all lanes.
  VELORA_HD std::uint64_t size() const { return sizes.total(); }
  VELORA_HD std::uint64_t fullest() const { return *largest; }
  /// The value for even_size.
  VELORA_HD std::uint64_t find_even_size() const {
    const std::uint64_t most = fullest();
    return size() == most * num_lanes ? most : std::uint64_t{0};
  }
  /// Whether all lanes hold as many rows. One alone does.
  bool is_even() const { return num_lanes == 1 || even_size != 0; }
  /// The live row at `position` < size(), counted lane by lane.
  VELORA_HD RowId locate(std::uint64_t position) const { return locate(position, even_size); }
  /// The same where all lanes hold `even` rows, or others where it is 0.
  VELORA_HD RowId locate(std::uint64_t position, std::uint64_t even) const {
    std::uint64_t lane = 0;
    if (num_lanes > 1) {
      if (even != 0) {
        lane = position / even;
        position -= lane * even;
      } else {
        lane = sizes.find(position);
      }
    }
    const auto found = static_cast<std::uint32_t>(lane);
    return {found, begin(found) + position};
  }

  /// The live row at `position`, counted time step by time step. Precondition: all lanes hold as
  /// many rows.
  VELORA_HD RowId in_time_order(std::uint64_t position) const {
    const auto lane = static_cast<std::uint32_t>(position % num_lanes);
    return {lane, begin(lane) + position / num_lanes};
  }

  VELORA_HD bool alive(RowId id) const {
    return id.lane < num_lanes && id.serial >= begin(id.lane) && id.serial < end(id.lane);
  }

  /// Precondition, here and below: the row is present.
  VELORA_HD std::uint64_t slot(RowId id) const {
    const std::uint64_t lap = lanes[id.lane].lap;
    return id.serial >= lap ? id.serial - lap : id.serial + lane_slots - lap;
  }
  /// Counted in rows from the first of lane 0.
  VELORA_HD std::uint64_t row_index(RowId id) const {
    return std::uint64_t{id.lane} * lane_slots + slot(id);
  }
  VELORA_HD const std::byte* row(RowId id) const { return rows + row_index(id) * pitch; }
  VELORA_HD std::uint8_t flags(RowId id) const {
    return static_cast<std::uint8_t>(row(id)[flags_offset]);
  }

  /// The boundary: is the step after row `id` part of the same episode, and is it here? No after
  /// `done` or `truncated`, at the newest row of a lane, and for a row that is not alive.
  VELORA_HD bool continues(RowId id) const {
    return alive(id) && id.serial + 1 < end(id.lane) && (flags(id) & kEnds) == 0;
  }
  /// The first of rows [begin, end) of a lane, which are present, that ends an episode; `end` where
  /// none does.
  VELORA_HD std::uint64_t find_end(std::uint32_t lane, std::uint64_t begin,
                                   std::uint64_t end) const {
    if (begin == end) return end;
    const std::uint64_t wraps = begin + lane_slots - slot({lane, begin});
    const std::byte* next = row({lane, begin}) + flags_offset;
    for (std::uint64_t serial = begin; serial < end; ++serial, next += pitch) {
      if (serial == wraps) next = row({lane, serial}) + flags_offset;
      if ((static_cast<std::uint8_t>(*next) & kEnds) != 0) return serial;
    }
    return end;
  }
};

/// Calls f(rows, id, count) for each piece of `count` consecutive rows of a lane that lies
/// together: two where a ring wraps.
template <typename F>
void each_piece(const RowsView& view, RowId id, std::uint64_t count, const F& f) {
  while (count > 0) {
    const std::uint64_t before_wrap = view.lane_slots - view.slot(id);
    const std::uint64_t piece = count < before_wrap ? count : before_wrap;
    f(view.row(id), id, piece);
    id.serial += piece;
    count -= piece;
  }
}

}  // namespace velora
