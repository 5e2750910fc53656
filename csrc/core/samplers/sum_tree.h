#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/values/macros.h"

namespace velora {

/// Weights in a row of positions, under a tree of fan-out 4: changes one in O(log n), and finds in
/// O(log n) the position at which the sum of weights exceeds a mass. A leaf is a raw priority and
/// the weight that was made of it, or nothing. A node has the sum of the weights below it, and the
/// largest and the least raw priority. The four children of a node are one cache line.
///
/// A node is computed from its children in their order and never patched by a difference. So the
/// tree is a function of its leaves, whatever came before, in which order, on which device, and
/// threads that share a node may both compute it. Sums are rounded at each level: a total is off by
/// less than 2**-46 of it, and leaves that have gone leave no error behind.
///
/// A plain view for host and device, over memory that is not its own. Memory of zeros is a tree of
/// nothing. Not synchronised.
struct SumTree {
  static constexpr std::uint64_t kFanOut = 4;
  static constexpr std::uint32_t kMaxLevels = 24;

  /// A raw priority >= 0, in the order of numbers. Zero is that of no leaf.
  using Key = std::int32_t;
  VELORA_HD static Key key_of(float raw) {
    Key bits;
    std::memcpy(&bits, &raw, sizeof(bits));
    return bits + 1;
  }
  /// The priority of a key that is not zero.
  VELORA_HD static float raw_of(Key key) {
    const Key bits = key - 1;
    float raw;
    std::memcpy(&raw, &bits, sizeof(raw));
    return raw;
  }

  struct Node {
    double sum;    // of the weights
    Key largest;   // key, or zero
    Key opposite;  // the largest kTop - key of those with weight, or zero: that of the least key
  };

  Node* levels[kMaxLevels];  // the leaves, then sums of sums up to the root; each of whole nodes
  std::uint64_t sizes[kMaxLevels];
  std::uint32_t num_levels;

  static std::size_t nbytes(std::uint64_t positions);
  /// In nbytes(positions) of memory that is aligned to 64 bytes. Only computes addresses: the
  /// memory may be a device's.
  static SumTree in(std::byte* memory, std::uint64_t positions);

  VELORA_HD const Node& root() const { return *levels[num_levels - 1]; }
  VELORA_HD double total() const { return root().sum; }
  /// The largest key, or zero.
  VELORA_HD Key largest() const { return root().largest; }
  /// The least key of a leaf that has weight. Precondition: total() > 0.
  VELORA_HD Key least() const { return kTop - root().opposite; }
  VELORA_HD const Node& leaf(std::uint64_t position) const { return levels[0][position]; }

  /// Changes a leaf alone: compute() is to follow for the nodes above it, from the lowest to the
  /// root. A key of zero goes with no weight.
  VELORA_HD void set(std::uint64_t position, Key key, double weight) const {
    levels[0][position] = {
        .sum = weight, .largest = key, .opposite = weight > 0 ? kTop - key : Key{0}};
  }

  VELORA_HD void compute(std::uint32_t level, std::uint64_t node) const {
    const Node* below = levels[level - 1] + node * kFanOut;
    Node sum = below[0];
    for (std::uint64_t i = 1; i < kFanOut; ++i) {
      sum.sum += below[i].sum;
      sum.largest = below[i].largest > sum.largest ? below[i].largest : sum.largest;
      sum.opposite = below[i].opposite > sum.opposite ? below[i].opposite : sum.opposite;
    }
    levels[level][node] = sum;
  }

  /// The child of a node of `level` at which the sum of children, added up as compute() does,
  /// exceeds `mass`: the first such; where rounding left none, the last that has weight. So no
  /// child of weight zero. `mass` becomes what is left for the child. Precondition: the node's sum
  /// is not zero.
  VELORA_HD std::uint64_t descend(std::uint32_t level, std::uint64_t node, double& mass) const {
    const Node* below = levels[level - 1] + node * kFanOut;
    double before[kFanOut] = {0, below[0].sum};  // the sum of the children before each
    before[2] = before[1] + below[1].sum;
    before[3] = before[2] + below[2].sum;
    std::uint64_t child = 0;
    for (std::uint64_t i = 1; i < kFanOut; ++i) child += before[i] <= mass ? 1 : 0;
    while (below[child].sum == 0) --child;
    mass -= before[child];
    return node * kFanOut + child;
  }

  /// The position at which the sum of weights exceeds `mass` in [0, total()). Never one of weight
  /// zero. Precondition: total() > 0.
  VELORA_HD std::uint64_t find(double mass) const {
    std::uint64_t position = 0;
    for (std::uint32_t level = num_levels - 1; level > 0; --level) {
      position = descend(level, position, mass);
    }
    return position;
  }

 private:
  static constexpr Key kTop = 0x7F800002;  // beyond the key of infinity
};
static_assert(SumTree::kFanOut * sizeof(SumTree::Node) == 64);

/// find() of many masses, while the nodes of others are on their way from memory.
void find_all(const SumTree& tree, std::span<const double> masses,
              std::span<std::uint64_t> positions);

/// Computes the nodes above leaves that have changed, each about once. O(log n) for each of them,
/// less where they share nodes.
class SumTreeUpdate {
 public:
  /// The nodes above leaves [first, end).
  static void run(const SumTree& tree, std::uint64_t first, std::uint64_t end);
  /// The nodes above leaves in any order; ascending is fastest. Overwrites `positions`.
  void some(const SumTree& tree, std::span<std::uint64_t> positions);

 private:
  std::span<std::uint64_t> sort(std::span<std::uint64_t> nodes, std::uint64_t size);

  std::vector<std::uint64_t> marks_;  // a bit for each node of a level
};

}  // namespace velora
