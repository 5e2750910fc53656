#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/rows/count_tree.h"
#include "core/rows/journal.h"
#include "core/rows/rows_view.h"

namespace velora {

/// The live rows of each lane, their sums, and those of the fullest lane: by these a draw finds its
/// rows where lanes are filled unevenly.
///
/// A reader of the lanes' journal. It looks at the lanes that entries name and skips patches, which
/// change no size. Full lanes stay full until a reset. Not synchronised, but catch_up() writes
/// nothing when nothing has come.
class LaneSizes {
 public:
  /// Throws std::bad_alloc.
  explicit LaneSizes(std::uint32_t num_lanes)
      : words_(num_words(num_lanes)), tree_(CountTree::in(words_.data(), num_lanes)) {}

  /// Of the tree, and then one of the fullest lane: what a device has a copy of.
  static std::uint64_t num_words(std::uint32_t num_lanes) {
    return CountTree::num_words(num_lanes) + 1;
  }
  const CountTree& tree() const { return tree_; }
  const std::uint64_t* largest() const { return &words_.back(); }

  /// Follows the lanes of `view`, whose own sizes it does not look at. O(rows pushed), times
  /// O(log lanes) where these are not full.
  void catch_up(const RowsView& view) {
    if (view.num_lanes > 1) return catch_up_lanes(view);
    const std::uint64_t size = size_of(view, 0);
    if (size != words_.front()) words_.front() = words_.back() = size;
  }

 private:
  static std::uint64_t size_of(const RowsView& view, std::uint32_t lane) {
    const LaneState& lane_state = view.lanes[lane];
    LaneState state = {};
    state.pushed = std::atomic_ref(const_cast<std::uint64_t&>(lane_state.pushed))
                       .load(std::memory_order_acquire);
    state.cleared = lane_state.cleared;
    return state.pushed - state.oldest(view.lane_capacity);
  }
  void catch_up_lanes(const RowsView& view);

  std::vector<std::uint64_t> words_;
  CountTree tree_;
  JournalCursor cursor_;
};

}  // namespace velora
