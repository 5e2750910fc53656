#include "core/samplers/windows.h"

#include <algorithm>
#include <bit>

#include "core/values/round_up.h"

namespace velora {

Windows::Windows(const RowsView& view, std::uint64_t length, bool crosses, DrawScratch& scratch)
    : length_(length),
      crosses_(crosses),
      bits_(round_up(view.num_lanes * view.lane_capacity, kGroupBits) / kWordBits),
      count_words_(CountTree::num_words(bits_.size() / kGroupWords)),
      counts_(CountTree::in(count_words_.data(), bits_.size() / kGroupWords)),
      seen_(view.num_lanes),
      rows_(scratch) {}

void Windows::catch_up(const RowsView& view) {
  view_ = &view;
  cursor_.each_lane(
      *view.journal, view.num_lanes, [&] { forget_all(); },
      [&](std::uint32_t lane) { look_on(view, lane); });
}

void Windows::forget_all() {
  std::fill(bits_.begin(), bits_.end(), 0);
  counts_.clear(bits_.size() / kGroupWords);
  std::fill(seen_.begin(), seen_.end(), Seen{});
}

/// Of one lane, all of whose windows have gone.
void Windows::forget(const RowsView& view, std::uint32_t lane) {
  const std::uint64_t first = lane * view.lane_capacity;
  const std::uint64_t end = first + view.lane_capacity;
  for (std::uint64_t bit = first; bit < end;) {
    if (bits_[bit / kWordBits] >> (bit % kWordBits) == 0) {
      bit = (bit / kWordBits + 1) * kWordBits;  // no more of them in this word
    } else {
      set(bit++, false);
    }
  }
}

void Windows::look_on(const RowsView& view, std::uint32_t lane) {
  const std::uint64_t begin = view.begin(lane);
  const std::uint64_t end = view.end(lane);
  Seen& seen = seen_[lane];
  if (seen.serial < begin) {
    forget(view, lane);
    seen = {.serial = begin, .episode = begin};
  }
  std::uint64_t slot = seen.serial % view.lane_capacity;
  for (RowId id = {lane, seen.serial}; id.serial < end; ++id.serial) {
    const bool ended = id.serial > begin && (view.flags({lane, id.serial - 1}) & kEnds) != 0;
    if (ended) seen.episode = id.serial;
    set(lane * view.lane_capacity + slot, false);  // the row that it pushed out has the same bit
    append(view, id, slot, seen.episode);
    if (++slot == view.lane_capacity) slot = 0;
  }
  seen.serial = end;
}

/// `slot` is the newest row's serial modulo the capacity: a division that is made once.
void Windows::append(const RowsView& view, RowId newest, std::uint64_t slot,
                     std::uint64_t episode) {
  const std::uint64_t begin = view.begin(newest.lane);
  const std::uint64_t from = crosses_ ? begin : std::max(begin, episode);
  if (newest.serial + 1 - from < length_) return;
  const std::uint64_t back = length_ - 1;
  const std::uint64_t first = slot >= back ? slot - back : slot + view.lane_capacity - back;
  set(newest.lane * view.lane_capacity + first, true);
}

void Windows::set(std::uint64_t bit, bool is_window) {
  std::uint64_t& word = bits_[bit / kWordBits];
  const std::uint64_t mask = std::uint64_t{1} << (bit % kWordBits);
  if (((word & mask) != 0) == is_window) return;
  word ^= mask;
  counts_.add(bit / kGroupBits, is_window ? 1 : -1);
}

RowId Windows::locate(std::uint64_t number) const {
  std::uint64_t word = counts_.find(number) * kGroupWords;
  for (;; ++word) {
    const auto ones = static_cast<std::uint64_t>(std::popcount(bits_[word]));
    if (number < ones) break;
    number -= ones;
  }
  std::uint64_t rest = bits_[word];
  for (; number > 0; --number) rest &= rest - 1;
  const std::uint64_t bit = word * kWordBits + static_cast<std::uint64_t>(std::countr_zero(rest));
  const std::uint64_t capacity = view_->lane_capacity;
  const auto lane = static_cast<std::uint32_t>(bit / capacity);
  const std::uint64_t newest = view_->end(lane) - 1;
  const std::uint64_t back = (newest % capacity + capacity - bit % capacity) % capacity;
  return {lane, newest - back};
}

}  // namespace velora
