#include "core/random/distinct_draw.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "core/random/candidates.h"
#include "core/values/errors.h"

namespace velora {
namespace {

// Slots for each element in the table of taken values. Roomy, so that a look-up nearly always ends
// at its first slot, and small enough to stay in the cache.
constexpr std::uint32_t kSlots = 8;
// Up to so many values for each slot of the table, a bit for each value takes less memory to clear.
constexpr std::uint64_t kValuesPerSlot = 32;
constexpr std::uint64_t kWordBits = 64;

/// The values that are taken, in an open-addressing table. A key is a value plus one; zero is an
/// empty slot.
template <typename Key>
struct TakenKeys {
  Key* table;
  std::uint32_t mask;

  /// Returns whether the value was free.
  bool take(std::uint64_t value) const {
    const auto wanted = static_cast<Key>(value + 1);
    std::uint32_t slot = claim_slot(value, mask);
    while (table[slot] != 0 && table[slot] != wanted) slot = (slot + 1) & mask;
    if (table[slot] != 0) return false;
    table[slot] = wanted;
    return true;
  }
};

/// The same with a bit for each value.
struct TakenMarks {
  std::uint64_t* words;

  bool take(std::uint64_t value) const {
    const std::uint64_t mark = std::uint64_t{1} << (value % kWordBits);
    std::uint64_t& word = words[value / kWordBits];
    if ((word & mark) != 0) return false;
    word |= mark;
    return true;
  }
};

std::uint32_t table_size(std::size_t count) {
  static_assert(std::uint64_t{claim_table_size(kMaxDraw)} * (kSlots / 2) <=
                std::numeric_limits<std::uint32_t>::max());
  return claim_table_size(static_cast<std::uint32_t>(count)) * (kSlots / 2);
}

}  // namespace

void check_draw(std::uint64_t count, std::uint64_t bound) {
  const std::uint64_t limit = std::min(bound, kMaxDraw);
  if (count > limit) {
    throw ValueError("batch_size: expected at most " + std::to_string(limit) + ", got " +
                     std::to_string(count));
  }
}

DistinctDraw::DistinctDraw(DrawKey key, std::uint64_t bound, std::size_t count,
                           DrawScratch& scratch)
    : key_(key), range_(bound), scratch_(scratch) {
  check_draw(count, bound);
  if (draws_most(count, bound)) {
    kind_ = Kind::kRanks;
    range_ = claim_table_size(static_cast<std::uint32_t>(count));
    draw_most(static_cast<std::uint32_t>(bound));
    return;
  }
  const std::uint32_t size = table_size(count);
  if (bound / kValuesPerSlot <= size) {
    kind_ = Kind::kMarks;
    begin_marks();
    return;
  }
  mask_ = size - 1;
  if (bound < std::numeric_limits<std::uint32_t>::max()) {
    kind_ = Kind::kShortKeys;
    scratch_.short_keys.assign(size, 0);
  } else {
    kind_ = Kind::kLongKeys;
    scratch_.long_keys.assign(size, 0);
  }
}

void DistinctDraw::begin_marks() { scratch_.marks.assign(range_ / kWordBits + 1, 0); }

void DistinctDraw::next(std::span<std::uint64_t> out) {
  if (kind_ == Kind::kRanks) {
    rank(out);
  } else {
    draw_by_rule(out);
  }
  next_ += static_cast<std::uint32_t>(out.size());
}

void DistinctDraw::draw_by_rule(std::span<std::uint64_t> out) {
  fill_candidates(key_, next_, range_, out);
  switch (kind_) {
    case Kind::kShortKeys:
      return resolve_clashes(out, TakenKeys<std::uint32_t>{scratch_.short_keys.data(), mask_});
    case Kind::kLongKeys:
      return resolve_clashes(out, TakenKeys<std::uint64_t>{scratch_.long_keys.data(), mask_});
    case Kind::kMarks:
    case Kind::kRanks:
      return resolve_clashes(out, TakenMarks{scratch_.marks.data()});
  }
}

/// One by one in element order no element is ever displaced, so a set of taken values is enough.
template <typename Taken>
void DistinctDraw::resolve_clashes(std::span<std::uint64_t> out, Taken taken) const {
  for (std::size_t i = 0; i < out.size(); ++i) {
    for (std::uint32_t attempt = 1; !taken.take(out[i]); ++attempt) {
      out[i] = bounded(random_bits(key_, next_ + static_cast<std::uint32_t>(i), attempt), range_);
    }
  }
}

void DistinctDraw::draw_most(std::uint32_t elements) {
  constexpr std::uint32_t kPart = 64;
  std::uint64_t part[kPart];
  begin_marks();
  scratch_.drawn.resize(elements);
  while (next_ < elements) {
    const std::span<std::uint64_t> out(part, std::min(kPart, elements - next_));
    draw_by_rule(out);
    std::copy(out.begin(), out.end(), scratch_.drawn.begin() + next_);
    next_ += static_cast<std::uint32_t>(out.size());
  }
  next_ = 0;
  const DrawScratch::Words<std::uint64_t>& marks = scratch_.marks;
  scratch_.before.resize(marks.size());
  std::uint32_t before = 0;
  for (std::size_t word = 0; word < marks.size(); ++word) {
    scratch_.before[word] = before;
    before += static_cast<std::uint32_t>(std::popcount(marks[word]));
  }
}

void DistinctDraw::rank(std::span<std::uint64_t> out) const {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint32_t value = scratch_.drawn[next_ + i];
    const std::uint64_t lower = (std::uint64_t{1} << (value % kWordBits)) - 1;
    const std::size_t word = value / kWordBits;
    out[i] = scratch_.before[word] +
             static_cast<std::uint32_t>(std::popcount(scratch_.marks[word] & lower));
  }
}

void draw_distinct(DrawKey key, std::uint64_t bound, std::span<std::uint64_t> out,
                   DrawScratch& scratch) {
  DistinctDraw(key, bound, out.size(), scratch).next(out);
}

}  // namespace velora
