#include "core/draw.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/errors.h"

namespace velora {
namespace {

// Places for each element in the table of taken values. Roomy, so that a look-up nearly always ends
// at its first place, and small enough to stay in the cache.
constexpr std::uint32_t kPlaces = 8;

/// One by one in element order nobody is ever displaced, so it is enough to know what is taken.
/// Key holds a value plus one; zero is an empty place.
template <typename Key>
void resolve_clashes(DrawKey key, std::uint64_t bound, std::span<std::uint64_t> out,
                     std::vector<Key>& taken) {
  const auto count = static_cast<std::uint32_t>(out.size());
  const std::uint32_t size = claim_table_size(count) * (kPlaces / 2);
  const std::uint32_t mask = size - 1;
  taken.assign(size, 0);
  for (std::uint32_t i = 0; i < count; ++i) {
    for (std::uint32_t attempt = 1;; ++attempt) {
      const auto wanted = static_cast<Key>(out[i] + 1);
      std::uint32_t slot = claim_slot(out[i], mask);
      while (taken[slot] != 0 && taken[slot] != wanted) slot = (slot + 1) & mask;
      if (taken[slot] == 0) {
        taken[slot] = wanted;
        break;
      }
      out[i] = bounded(random_bits(key, i, attempt), bound);
    }
  }
}

}  // namespace

void draw_distinct(DrawKey key, std::uint64_t bound, std::span<std::uint64_t> out,
                   DrawScratch& scratch) {
  static_assert(std::uint64_t{claim_table_size(kMaxDraw)} * (kPlaces / 2) <=
                std::numeric_limits<std::uint32_t>::max());
  const std::uint64_t limit = std::min(bound, kMaxDraw);
  if (out.size() > limit) {
    throw ValueError("batch_size: expected at most " + std::to_string(limit) + ", got " +
                     std::to_string(out.size()));
  }
  // All first candidates in one loop of independent steps, which a processor runs side by side.
  for (std::size_t i = 0; i < out.size(); i += 2) {
    const RandomPair pair = random_pair(key, static_cast<std::uint32_t>(i / 2), 0);
    out[i] = bounded(pair.bits[0], bound);
    if (i + 1 < out.size()) out[i + 1] = bounded(pair.bits[1], bound);
  }
  if (bound < std::numeric_limits<std::uint32_t>::max()) {
    resolve_clashes(key, bound, out, scratch.short_keys);
  } else {
    resolve_clashes(key, bound, out, scratch.long_keys);
  }
}

}  // namespace velora
