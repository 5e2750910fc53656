#pragma once

#include <cstdint>

#include "core/values/macros.h"

namespace velora {

/// Counts in a row of positions, with the sums of each 16, of each 256 and so on over them: changes
/// one in O(log n), and finds in O(log n) the position of the p-th of all that is counted.
///
/// A plain view for host and device; non-owning, over memory that starts zeroed.
struct CountTree {
  static constexpr std::uint64_t kFanOut = 16;  // the children of a node: two cache lines
  static constexpr std::uint32_t kMaxLevels = 12;

  std::uint64_t* levels[kMaxLevels];  // the counts, then sums of sums up to one total
  std::uint32_t num_levels;

  /// Words of memory for `positions` counts.
  VELORA_HD static constexpr std::uint64_t num_words(std::uint64_t positions) {
    std::uint64_t words = positions;
    while (positions > 1) words += positions = (positions + kFanOut - 1) / kFanOut;
    return words;
  }
  /// Only computes addresses: the memory may be a device's.
  static CountTree in(std::uint64_t* memory, std::uint64_t positions) {
    CountTree tree = {};
    tree.levels[tree.num_levels++] = memory;
    while (positions > 1) {
      memory += positions;
      positions = (positions + kFanOut - 1) / kFanOut;
      tree.levels[tree.num_levels++] = memory;
    }
    return tree;
  }

  VELORA_HD std::uint64_t total() const { return *levels[num_levels - 1]; }
  void clear(std::uint64_t positions) {
    for (std::uint64_t word = 0; word < num_words(positions); ++word) levels[0][word] = 0;
  }
  void add(std::uint64_t position, std::int64_t change) {
    for (std::uint32_t level = 0; level < num_levels; ++level) {
      levels[level][position] += static_cast<std::uint64_t>(change);
      position /= kFanOut;
    }
  }
  /// The position of item number `item` < total(), counted position by position; `item` is then its
  /// number within its position.
  VELORA_HD std::uint64_t find(std::uint64_t& item) const {
    std::uint64_t position = 0;
    for (std::uint32_t level = num_levels - 1; level-- > 0;) {
      position *= kFanOut;
      for (const std::uint64_t* counts = levels[level]; item >= counts[position]; ++position) {
        item -= counts[position];
      }
    }
    return position;
  }
};

}  // namespace velora
