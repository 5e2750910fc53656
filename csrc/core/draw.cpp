#include "core/draw.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/errors.h"

namespace velora {

void draw_distinct(DrawKey key, std::uint64_t bound, std::span<std::uint64_t> out,
                   DrawScratch& scratch) {
  if (out.size() > bound || out.size() > std::numeric_limits<std::uint32_t>::max() / 4) {
    throw ValueError("batch_size: expected at most " + std::to_string(bound) + ", got " +
                     std::to_string(out.size()));
  }
  const auto count = static_cast<std::uint32_t>(out.size());
  // All first candidates in one independent loop, which the compiler can run side by side.
  for (std::uint32_t i = 0; i < count; ++i) out[i] = bounded(random_bits(key, i, 0), bound);

  // One by one in element order nobody is ever displaced, so it is enough to know what is taken.
  const std::uint32_t size = claim_table_size(count);
  if (scratch.size() < size) scratch.resize(size);
  std::fill_n(scratch.begin(), size, 0);
  const std::uint32_t mask = size - 1;
  for (std::uint32_t i = 0; i < count; ++i) {
    for (std::uint32_t attempt = 1;; ++attempt) {
      std::uint32_t slot = claim_slot(out[i], mask);
      while (scratch[slot] != 0 && scratch[slot] != out[i] + 1) slot = (slot + 1) & mask;
      if (scratch[slot] == 0) {
        scratch[slot] = out[i] + 1;
        break;
      }
      out[i] = bounded(random_bits(key, i, attempt), bound);
    }
  }
}

}  // namespace velora
