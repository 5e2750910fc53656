#include "core/samplers/sum_tree.h"

#include <algorithm>
#include <bit>

#include "core/values/round_up.h"

namespace velora {
namespace {

/// Calls f(entries) for each level, from the leaves to the root.
template <typename F>
void each_level(std::uint64_t positions, const F& f) {
  std::uint64_t entries = positions;
  while (true) {
    entries = round_up(entries, SumTree::kFanOut);
    f(entries);
    if (entries == SumTree::kFanOut) break;
    entries /= SumTree::kFanOut;
  }
  f(1);
}

// Masses that are looked for together: enough nodes on their way, few enough for the cache.
constexpr std::size_t kBlock = 32;
constexpr std::uint64_t kWordBits = 64;
// Nodes that are on their way while one is computed.
constexpr std::size_t kAhead = 8;

void prefetch_node(const SumTree& tree, std::uint32_t level, std::uint64_t node) {
  __builtin_prefetch(tree.levels[level - 1] + node * SumTree::kFanOut);
  __builtin_prefetch(tree.levels[level] + node, 1);
}

}  // namespace

std::size_t SumTree::nbytes(std::uint64_t positions) {
  std::size_t bytes = 0;
  each_level(positions, [&](std::uint64_t entries) { bytes += entries * sizeof(Node); });
  return bytes;
}

SumTree SumTree::in(std::byte* memory, std::uint64_t positions) {
  SumTree tree = {};
  each_level(positions, [&](std::uint64_t entries) {
    tree.sizes[tree.num_levels] = entries;
    tree.levels[tree.num_levels++] = reinterpret_cast<Node*>(memory);
    memory += entries * sizeof(Node);
  });
  return tree;
}

void find_all(const SumTree& tree, std::span<const double> masses,
              std::span<std::uint64_t> positions) {
  double rest[kBlock];
  for (std::size_t first = 0; first < masses.size(); first += kBlock) {
    const std::size_t count = std::min(kBlock, masses.size() - first);
    std::uint64_t* const nodes = positions.data() + first;
    std::copy_n(masses.data() + first, count, rest);
    std::fill_n(nodes, count, 0);
    for (std::uint32_t level = tree.num_levels - 1; level > 0; --level) {
      for (std::size_t i = 0; i < count; ++i) {
        nodes[i] = tree.descend(level, nodes[i], rest[i]);
        if (level == 1) continue;
        __builtin_prefetch(tree.levels[level - 2] + nodes[i] * SumTree::kFanOut);
      }
    }
  }
}

void SumTreeUpdate::run(const SumTree& tree, std::uint64_t first, std::uint64_t end) {
  for (std::uint32_t level = 1; level < tree.num_levels && first < end; ++level) {
    first /= SumTree::kFanOut;
    end = (end + SumTree::kFanOut - 1) / SumTree::kFanOut;
    for (std::uint64_t node = first; node < end; ++node) tree.compute(level, node);
  }
}

void SumTreeUpdate::some(const SumTree& tree, std::span<std::uint64_t> positions) {
  bool is_sorted = std::ranges::is_sorted(positions);
  for (std::uint32_t level = 1; level < tree.num_levels; ++level) {
    for (std::uint64_t& node : positions) node /= SumTree::kFanOut;
    if (!is_sorted && tree.sizes[level] <= kWordBits * positions.size()) {
      positions = sort(positions, tree.sizes[level]);
      is_sorted = true;
    }
    std::size_t count = 0;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      if (i + kAhead < positions.size()) prefetch_node(tree, level, positions[i + kAhead]);
      const std::uint64_t node = positions[i];
      if (count > 0 && positions[count - 1] == node) continue;
      tree.compute(level, node);
      positions[count++] = node;
    }
    positions = positions.first(count);
  }
}

/// Sorts nodes of a level that has `size` of them, each once. O(nodes + size / 64).
std::span<std::uint64_t> SumTreeUpdate::sort(std::span<std::uint64_t> nodes, std::uint64_t size) {
  marks_.assign((size + kWordBits - 1) / kWordBits, 0);
  for (const std::uint64_t node : nodes) {
    marks_[node / kWordBits] |= std::uint64_t{1} << (node % kWordBits);
  }
  std::size_t count = 0;
  for (std::size_t word = 0; word < marks_.size(); ++word) {
    for (std::uint64_t bits = marks_[word]; bits != 0; bits &= bits - 1) {
      nodes[count++] = word * kWordBits + static_cast<std::uint64_t>(std::countr_zero(bits));
    }
  }
  return nodes.first(count);
}

}  // namespace velora
