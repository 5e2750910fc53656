#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>

#include "core/rows/rows_view.h"

namespace velora {

/// Report of a writer: new rows, or changed bytes of one row.
struct JournalEntry {
  RowId row;      // the newest of its lane; or the one that changed
  bool is_patch;  // it changed below the serial of its lane

  std::uint64_t packed() const {
    return row.packed() | (is_patch ? std::uint64_t{1} << 63 : std::uint64_t{0});
  }
  static JournalEntry unpack(std::uint64_t packed) {
    return {.row = RowId::unpack(packed & ~(std::uint64_t{1} << 63)),
            .is_patch = packed >> 63 != 0};
  }
};

/// The last entries of one writer, in a bounded ring, for readers who keep a JournalCursor each.
///
/// There are at least as many entries as lanes, so that a reader who was overrun, and has to look
/// at every lane, does no more work than was pushed. Where there is one lane alone its rows have
/// no entries: a reader compares the serial.
///
/// A patch is a change of a row that is there already: an end that Lanes::end_episode() marked. The
/// row before a new one needs none, although its link to its next state may have changed with it: a
/// reader that copies compact rows copies that row once more. What takes out or replaces all
/// rows has no entries and counts as a reset.
///
/// Order: what an entry is about is written first, then the serial of the lane (release), then
/// the entry, then the count (release). So a reader that has seen the count (acquire) finds the
/// serials that its entries tell of. The bytes of rows are the exception: Store::append() moves the
/// serial on before it writes them, and keeps readers out until it returns.
///
/// One writer; any number of readers, which may run beside it. Lies in shared memory: it holds
/// no address.
class Journal {
 public:
  static std::size_t nbytes(std::uint32_t num_lanes) {
    return sizeof(Journal) + capacity_for(num_lanes) * sizeof(std::uint64_t);
  }
  /// Begins an empty one in nbytes(num_lanes) of memory that is zeroed and aligned to 8 bytes.
  static Journal* create(std::byte* memory, std::uint32_t num_lanes) {
    return new (memory) Journal(capacity_for(num_lanes));
  }
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  /// For the writer. O(1).
  void add(JournalEntry entry) {
    std::atomic_ref(entries()[count_ & (capacity_ - 1)])
        .store(entry.packed(), std::memory_order_release);
    std::atomic_ref(count_).store(count_ + 1, std::memory_order_release);
  }
  /// For the writer: all rows were cleared or replaced.
  void reset() { std::atomic_ref(resets_).store(resets_ + 1, std::memory_order_release); }

  std::uint64_t capacity() const { return capacity_; }
  /// Entries and resets ever.
  std::uint64_t count() const { return load(count_); }
  std::uint64_t resets() const { return load(resets_); }
  /// Entry number `i`, where it is one of the last capacity() - 1; otherwise any later one.
  JournalEntry entry(std::uint64_t i) const {
    return JournalEntry::unpack(load(entries()[i & (capacity_ - 1)]));
  }

 private:
  /// Room for patches even where there are few lanes.
  static constexpr std::uint64_t kLeastCapacity = 64;

  explicit Journal(std::uint64_t capacity) : capacity_(capacity) {}

  static std::uint64_t capacity_for(std::uint32_t num_lanes) {
    return std::bit_ceil(std::max<std::uint64_t>(num_lanes, kLeastCapacity));
  }
  static std::uint64_t load(const std::uint64_t& word) {
    return std::atomic_ref(const_cast<std::uint64_t&>(word)).load(std::memory_order_acquire);
  }
  std::uint64_t* entries() const {
    return reinterpret_cast<std::uint64_t*>(const_cast<Journal*>(this) + 1);
  }

  std::uint64_t capacity_;
  std::uint64_t count_ = 0;
  std::uint64_t resets_ = 0;
};

/// How far a reader has read a Journal. A new one begins with a reset: its reader has seen nothing.
class JournalCursor {
 public:
  enum class News : std::uint8_t {
    kEntries,  // all of them were passed on
    kOverrun,  // there were more than the journal keeps: any lane may have rows, any row a patch
    kReset     // all rows have gone or are others
  };

  /// Calls on_entry(JournalEntry) for each entry since the last call, unless there were too many;
  /// some may have been passed on then, or not be what they were. O(entries).
  template <typename OnEntry>
  News read(const Journal& journal, const OnEntry& on_entry) {
    const std::uint64_t resets = journal.resets();
    const std::uint64_t count = journal.count();
    const std::uint64_t first = seen_;
    seen_ = count;
    if (resets != resets_) {
      resets_ = resets;
      return News::kReset;
    }
    const auto is_overrun = [&](std::uint64_t end) { return end - first >= journal.capacity(); };
    if (is_overrun(count)) return News::kOverrun;
    for (std::uint64_t i = first; i < count; ++i) on_entry(journal.entry(i));
    return first < count && is_overrun(journal.count()) ? News::kOverrun : News::kEntries;
  }

  /// For readers who compare serials: calls on_lane(lane) for each lane that may have new rows,
  /// some of them more than once, and before that on_reset() after a reset. Skips patches.
  /// O(rows pushed), also after an overrun, but O(lanes) after a reset.
  template <typename OnReset, typename OnLane>
  void each_lane(const Journal& journal, std::uint32_t num_lanes, const OnReset& on_reset,
                 const OnLane& on_lane) {
    const News news = read(journal, [&](JournalEntry entry) {
      if (!entry.is_patch) on_lane(entry.row.lane);
    });
    if (news == News::kReset) on_reset();
    if (news == News::kEntries && num_lanes > 1) return;
    for (std::uint32_t lane = 0; lane < num_lanes; ++lane) on_lane(lane);
  }

  bool has_seen_resets_of(const Journal& journal) const { return resets_ == journal.resets(); }

 private:
  std::uint64_t seen_ = 0;
  std::uint64_t resets_ = UINT64_MAX;
};

}  // namespace velora
