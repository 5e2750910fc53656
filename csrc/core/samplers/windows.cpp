#include "core/samplers/windows.h"

#include <algorithm>
#include <bit>

#include "core/values/round_up.h"

namespace velora {

Windows::Windows(const RowsView& view, std::uint64_t length, bool crosses)
    : length_(length),
      crosses_(crosses),
      bits_(round_up(view.num_lanes * view.lane_capacity, kGroupBits) / kWordBits),
      count_words_(CountTree::num_words(bits_.size() / kGroupWords)),
      counts_(CountTree::in(count_words_.data(), bits_.size() / kGroupWords)) {
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    std::uint64_t episode = view.begin(lane);
    for (RowId id = {lane, episode}; id.serial < view.end(lane); ++id.serial) {
      append(view, id, id.serial % view.lane_capacity, episode);
      if ((view.flags(id) & kEnds) != 0) episode = id.serial + 1;
    }
  }
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

void Windows::update(const RowsView& view, std::uint32_t lane, std::uint64_t episode) {
  const RowId newest = {lane, view.end(lane) - 1};
  const std::uint64_t slot = newest.serial % view.lane_capacity;
  set(lane * view.lane_capacity + slot, false);  // the row that it pushed out has the same bit
  append(view, newest, slot, episode);
}

void Windows::clear() {
  std::fill(bits_.begin(), bits_.end(), 0);
  counts_.clear(bits_.size() / kGroupWords);
}

void Windows::set(std::uint64_t bit, bool is_window) {
  std::uint64_t& word = bits_[bit / kWordBits];
  const std::uint64_t mask = std::uint64_t{1} << (bit % kWordBits);
  if (((word & mask) != 0) == is_window) return;
  word ^= mask;
  counts_.add(bit / kGroupBits, is_window ? 1 : -1);
}

RowId Windows::locate(const RowsView& view, std::uint64_t number) const {
  std::uint64_t word = counts_.find(number) * kGroupWords;
  for (;; ++word) {
    const auto ones = static_cast<std::uint64_t>(std::popcount(bits_[word]));
    if (number < ones) break;
    number -= ones;
  }
  std::uint64_t rest = bits_[word];
  for (; number > 0; --number) rest &= rest - 1;
  const std::uint64_t bit = word * kWordBits + static_cast<std::uint64_t>(std::countr_zero(rest));
  const auto lane = static_cast<std::uint32_t>(bit / view.lane_capacity);
  const std::uint64_t newest = view.end(lane) - 1;
  const std::uint64_t back =
      (newest % view.lane_capacity + view.lane_capacity - bit % view.lane_capacity) %
      view.lane_capacity;
  return {lane, newest - back};
}

}  // namespace velora
