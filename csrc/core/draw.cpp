#include "core/draw.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "core/candidates.h"
#include "core/errors.h"

namespace velora {
namespace {

// Places for each element in the table of taken values. Roomy, so that a look-up nearly always ends
// at its first place, and small enough to stay in the cache.
constexpr std::uint32_t kPlaces = 8;

/// `size` zeros.
template <typename Key>
void clear(std::vector<Key>& table, std::size_t size) {
  table.resize(size);
  std::memset(table.data(), 0, size * sizeof(Key));
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
    : key_(key),
      bound_(bound),
      scratch_(scratch),
      has_short_keys_(bound < std::numeric_limits<std::uint32_t>::max()) {
  static_assert(std::uint64_t{claim_table_size(kMaxDraw)} * (kPlaces / 2) <=
                std::numeric_limits<std::uint32_t>::max());
  check_draw(count, bound);
  const std::uint32_t size = claim_table_size(static_cast<std::uint32_t>(count)) * (kPlaces / 2);
  mask_ = size - 1;
  if (has_short_keys_) {
    clear(scratch.short_keys, size);
  } else {
    clear(scratch.long_keys, size);
  }
}

void DistinctDraw::next(std::span<std::uint64_t> out) {
  fill_candidates(key_, next_, bound_, out);
  if (has_short_keys_) {
    resolve_clashes(out, scratch_.short_keys);
  } else {
    resolve_clashes(out, scratch_.long_keys);
  }
  next_ += static_cast<std::uint32_t>(out.size());
}

/// One by one in element order nobody is ever displaced, so it is enough to know what is taken.
/// Key holds a value plus one; zero is an empty place.
template <typename Key>
void DistinctDraw::resolve_clashes(std::span<std::uint64_t> out, std::vector<Key>& taken) const {
  Key* const table = taken.data();
  const std::uint32_t mask = mask_;
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint64_t value = out[i];
    for (std::uint32_t attempt = 1;; ++attempt) {
      const auto wanted = static_cast<Key>(value + 1);
      std::uint32_t slot = claim_slot(value, mask);
      while (table[slot] != 0 && table[slot] != wanted) slot = (slot + 1) & mask;
      if (table[slot] == 0) {
        table[slot] = wanted;
        break;
      }
      value = bounded(random_bits(key_, next_ + static_cast<std::uint32_t>(i), attempt), bound_);
      out[i] = value;
    }
  }
}

void draw_distinct(DrawKey key, std::uint64_t bound, std::span<std::uint64_t> out,
                   DrawScratch& scratch) {
  DistinctDraw(key, bound, out.size(), scratch).next(out);
}

}  // namespace velora
