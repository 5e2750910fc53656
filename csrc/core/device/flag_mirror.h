#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/rows/journal.h"
#include "core/rows/rows_view.h"

namespace velora {

/// A host's copy of the flags of rows that a device has, for those who look through episodes there.
/// It has none until it is asked for.
///
/// A reader of the lanes' journal: of the lanes that entries name it asks the device for all rows
/// that it does not know. Code that writes rows from the host, or marks an end, puts the flags here
/// as it puts them into the row; so patches are skipped, and of rows of the host nothing is asked.
/// Not synchronised.
class FlagMirror {
 public:
  /// The lane's next row, which goes into that slot of all lanes, has these flags.
  void push(std::uint64_t slot, RowId next, std::byte flags) {
    if (flags_.empty()) return;
    flags_[slot] = flags;
    if (known_[next.lane] == next.serial) ++known_[next.lane];
  }
  /// The row in that slot has others.
  void set(std::uint64_t slot, std::byte flags) {
    if (!flags_.empty()) flags_[slot] = flags;
  }

  /// Calls fetch(rows) for parts of the rows of `rows` whose flags are not here, and then set()s
  /// them as it says. O(rows pushed); the first time and after a reset it asks for all. When fetch
  /// throws, everything is asked for again the next time.
  template <typename Fetch>
  void catch_up(const RowsView& rows, const Fetch& fetch) {
    constexpr std::size_t kPart = std::size_t{1} << 16;
    flags_.resize(rows.num_lanes * rows.lane_slots);
    known_.resize(rows.num_lanes);
    std::vector<RowId> ids;
    const auto send = [&] {
      if (!ids.empty()) fetch(std::span<const RowId>(ids));
      ids.clear();
    };
    const auto list_lane = [&](std::uint32_t lane) {
      std::uint64_t& known = known_[lane];
      known = std::max(known, rows.begin(lane));
      for (; known < rows.end(lane); ++known) {
        ids.push_back({lane, known});
        if (ids.size() == kPart) send();
      }
    };
    try {
      cursor_.each_lane(
          *rows.journal, rows.num_lanes, [&] { std::fill(known_.begin(), known_.end(), 0); },
          list_lane);
      send();
    } catch (...) {
      *this = {};
      throw;
    }
  }

  /// The rows of `rows` as if they had nothing but flags.
  RowsView view(const RowsView& rows) const {
    RowsView flags = rows;
    flags.rows = flags_.data();
    flags.pitch = 1;
    flags.flags_offset = 0;
    return flags;
  }

 private:
  std::vector<std::byte> flags_;      // of each slot
  std::vector<std::uint64_t> known_;  // lane -> serial before which none is missing
  JournalCursor cursor_;
};

}  // namespace velora
