#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/macros.h"
#include "core/philox.h"

namespace velora {

/// Draws without replacement.
///
/// Element i of a draw has an endless list of candidates in [0, bound): attempt 0, 1, 2, ... It
/// takes the first one that no earlier element took. The rule treats all values alike, so every
/// set of `count` values, and every order of it, is equally likely.
///
/// Seen from the values it is deferred acceptance (Gale and Shapley, 1962) in which each value
/// prefers the earliest element: the outcome is the same in whatever order the elements propose.
/// So a CPU can go through them one by one and a GPU can let all of them propose at once.

/// Sizes for the table below: a power of two, at most half full.
VELORA_HD constexpr std::uint32_t claim_table_size(std::uint32_t count) {
  std::uint32_t size = 16;
  while (size < 2 * std::uint64_t{count}) size *= 2;
  return size;
}

/// An open-addressing table from value to the element that holds it. Both arrays are zeroed
/// before a draw: `keys` holds value + 1, `owners` holds the complement of the element, so that
/// the earliest owner is the maximum and zero means none.
struct ClaimTable {
  std::uint64_t* keys;
  std::uint32_t* owners;
  std::uint32_t mask;  // size - 1
};

VELORA_HD inline std::uint32_t claim_slot(std::uint64_t value, std::uint32_t mask) {
  return static_cast<std::uint32_t>((value * 0x9E3779B97F4A7C15u) >> 32) & mask;
}

/// Lets `element` propose, and then whoever it displaces, until nobody is displaced. Afterwards
/// `attempts[e]` is the attempt that element e holds for now; when every element has proposed it
/// is final. Element order and interleaving do not matter. `Atomics` gives compare_exchange and
/// fetch_max (acquire and release), load and store on the words of the table.
VELORA_NO_EXEC_CHECK
template <typename Atomics>
VELORA_HD inline void propose(std::uint32_t element, DrawKey key, std::uint64_t bound,
                              const ClaimTable& table, std::uint32_t* attempts) {
  std::uint32_t attempt = 0;
  while (true) {
    const std::uint64_t value = bounded(random_bits(key, element, attempt), bound);
    std::uint32_t slot = claim_slot(value, table.mask);
    while (true) {
      const std::uint64_t found = Atomics::compare_exchange(&table.keys[slot], 0, value + 1);
      if (found == 0 || found == value + 1) break;
      slot = (slot + 1) & table.mask;
    }
    // The attempt is in place before the claim: whoever displaces this element reads it.
    Atomics::store(&attempts[element], attempt);
    const std::uint32_t rank = ~element;
    const std::uint32_t holder = Atomics::fetch_max(&table.owners[slot], rank);
    if (holder == 0) return;
    if (holder < rank) {
      element = ~holder;  // displaced: a later element, which goes on from its own attempt
      attempt = Atomics::load(&attempts[element]) + 1;
    } else {
      ++attempt;
    }
  }
}

/// No draw has more elements: the tables of a larger one would outgrow 32-bit places.
inline constexpr std::uint64_t kMaxDraw = std::uint64_t{1} << 28;

/// Throws ValueError when `count` > bound or kMaxDraw.
void check_draw(std::uint64_t count, std::uint64_t bound);

/// Working memory of a DistinctDraw, kept between draws.
struct DrawScratch {
  std::vector<std::uint32_t> short_keys;  // where all values fit into 32 bits
  std::vector<std::uint64_t> long_keys;
};

/// Distinct values in [0, bound), in the order of the elements, some at a time: whoever wants the
/// first ones need not wait for the last. Expected cost O(count) while count is at most half of
/// bound, O(count log count) up to count == bound.
class DistinctDraw {
 public:
  /// `scratch` serves no other draw meanwhile. Throws as check_draw().
  DistinctDraw(DrawKey key, std::uint64_t bound, std::size_t count, DrawScratch& scratch);

  /// The next out.size() elements. Precondition: there are so many left.
  void next(std::span<std::uint64_t> out);

 private:
  template <typename Key>
  void resolve_clashes(std::span<std::uint64_t> out, std::vector<Key>& taken) const;

  DrawKey key_;
  std::uint64_t bound_;
  DrawScratch& scratch_;
  std::uint32_t mask_;      // size of the table of taken values, less one
  std::uint32_t next_ = 0;  // the element that comes next
  bool has_short_keys_;
};

/// Fills `out` with all elements of a draw. Throws as DistinctDraw does.
void draw_distinct(DrawKey key, std::uint64_t bound, std::span<std::uint64_t> out,
                   DrawScratch& scratch);

}  // namespace velora
