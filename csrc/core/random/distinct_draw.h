#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/memory/mapped_allocator.h"
#include "core/random/philox.h"
#include "core/values/macros.h"

namespace velora {

/// Draws without replacement.
///
/// Element i of a draw has an endless list of candidates in [0, bound): attempt 0, 1, 2, ... It
/// takes the first one that no earlier element took. The rule treats all values alike, so every
/// set of `count` values, and every order of it, is equally likely.
///
/// Seen from the values it is deferred acceptance (Gale and Shapley, 1962) in which each value
/// prefers the earliest element: the outcome is the same in any order the elements propose.
/// So a CPU can go through them one by one and a GPU can let all of them propose at once.
///
/// Of a draw of most values the last elements would try nearly all of them. There, all `bound`
/// elements draw by the rule from a range of claim_table_size(count) values, of which they take two
/// thirds at most, and each has the rank of its value among all that were taken. Every order of
/// distinct values is equally likely, so every order of ranks is; the draw is its first `count`.

/// Whether a draw takes most of the values. Its elements then follow another rule,
/// so this is part of what a seed promises.
VELORA_HD constexpr bool draws_most(std::uint64_t count, std::uint64_t bound) {
  return count > bound - bound / 4;
}
/// Elements that draw by the rule, at most, for a draw of `count` values of any bound.
VELORA_HD constexpr std::uint32_t most_elements(std::uint32_t count) { return count + count / 3; }

/// Sizes for the table below: a power of two, at most half full.
VELORA_HD constexpr std::uint32_t claim_table_size(std::uint32_t count) {
  std::uint32_t size = 16;
  while (size < 2 * std::uint64_t{count}) size *= 2;
  return size;
}

/// A table from value to the element that holds it: open-addressing or, where `keys` is null and
/// no value exceeds `mask`, direct. Both arrays are zeroed before a draw: `keys` holds value + 1,
/// `owners` holds the complement of the element, so that the earliest owner is the maximum and zero
/// means none.
struct ClaimTable {
  std::uint64_t* keys;
  std::uint32_t* owners;
  std::uint32_t mask;  // size - 1
};

VELORA_HD inline std::uint32_t claim_slot(std::uint64_t value, std::uint32_t mask) {
  return static_cast<std::uint32_t>((value * 0x9E3779B97F4A7C15u) >> 32) & mask;
}

/// Lets `element` propose, and then each element that is displaced, until none is. Afterwards
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
    const bool direct = table.keys == nullptr;
    std::uint32_t slot = direct ? static_cast<std::uint32_t>(value) : claim_slot(value, table.mask);
    while (!direct) {
      const std::uint64_t found = Atomics::compare_exchange(&table.keys[slot], 0, value + 1);
      if (found == 0 || found == value + 1) break;
      slot = (slot + 1) & table.mask;
    }
    // The attempt is stored before the claim: the element that displaces this one reads it.
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

/// How many slots of a direct table are claimed before one: each node of the tree counts those of
/// kFanOut nodes below it, and the lowest those of as many slots.
struct ClaimRanks {
  static constexpr std::uint32_t kFanOut = 16;

  const std::uint32_t* owners;
  std::uint64_t* nodes;  // level by level: fewer words than slots
  std::uint32_t size;    // slots, a multiple of kFanOut

  /// Nodes of the level over `below` nodes or slots.
  VELORA_HD static constexpr std::uint32_t nodes_over(std::uint32_t below) {
    return (below + kFanOut - 1) / kFanOut;
  }
  VELORA_HD std::uint64_t count_slots(std::uint32_t first, std::uint32_t end) const {
    std::uint64_t claimed = 0;
    for (std::uint32_t slot = first; slot < end; ++slot) claimed += owners[slot] != 0 ? 1 : 0;
    return claimed;
  }
  VELORA_HD static std::uint64_t sum(const std::uint64_t* level, std::uint32_t first,
                                     std::uint32_t end) {
    std::uint64_t total = 0;
    for (std::uint32_t node = first; node < end; ++node) total += level[node];
    return total;
  }
  /// Precondition: all nodes are there.
  VELORA_HD std::uint64_t rank(std::uint32_t slot) const {
    std::uint64_t before = count_slots(slot - slot % kFanOut, slot);
    const std::uint64_t* level = nodes;
    for (std::uint32_t width = nodes_over(size); width > 1; width = nodes_over(width)) {
      slot /= kFanOut;
      before += sum(level, slot - slot % kFanOut, slot);
      level += width;
    }
    return before;
  }
};

/// No draw has more elements: the tables of a larger one would outgrow 32-bit slots.
inline constexpr std::uint64_t kMaxDraw = std::uint64_t{1} << 28;

/// Throws ValueError when `count` > bound or kMaxDraw.
void check_draw(std::uint64_t count, std::uint64_t bound);

/// Working memory of a DistinctDraw, kept between draws.
struct DrawScratch {
  template <typename Word>
  using Words = std::vector<Word, MappedAllocator<Word>>;

  Words<std::uint32_t> short_keys;  // of taken values, where all fit into 32 bits
  Words<std::uint64_t> long_keys;
  Words<std::uint64_t> marks;   // a bit for each value
  Words<std::uint32_t> before;  // for each word of marks, the marks before it
  Words<std::uint32_t> drawn;   // element -> its value, of a draw of most
};

/// Distinct values in [0, bound), in the order of the elements, some at a time: the first ones
/// need not wait for the last, except in a draw of most values. Expected cost O(count), and
/// the least of O(count) and O(bound / 64) for memory that is cleared.
class DistinctDraw {
 public:
  /// `scratch` serves no other draw meanwhile. Throws as check_draw().
  DistinctDraw(DrawKey key, std::uint64_t bound, std::size_t count, DrawScratch& scratch);

  /// The next out.size() elements. Precondition: that many are left.
  void next(std::span<std::uint64_t> out);

 private:
  enum class Kind : std::uint8_t { kShortKeys, kLongKeys, kMarks, kRanks };

  void begin_marks();
  void draw_most(std::uint32_t elements);
  void rank(std::span<std::uint64_t> out) const;
  void draw_by_rule(std::span<std::uint64_t> out);
  template <typename Taken>
  void resolve_clashes(std::span<std::uint64_t> out, Taken taken) const;

  DrawKey key_;
  std::uint64_t range_;  // of the values that elements draw by the rule
  DrawScratch& scratch_;
  std::uint32_t mask_ = 0;  // size of the table of taken values, less one
  std::uint32_t next_ = 0;  // the element that comes next
  Kind kind_;
};

/// Fills `out` with all elements of a draw. Throws as DistinctDraw does.
void draw_distinct(DrawKey key, std::uint64_t bound, std::span<std::uint64_t> out,
                   DrawScratch& scratch);

}  // namespace velora
