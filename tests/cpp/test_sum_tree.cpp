#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/memory/mapped_allocator.h"
#include "core/samplers/sum_tree.h"

namespace velora {
namespace {

constexpr std::uint64_t kPositions[] = {1,  2,  3,   4,   5,   7,    15,   16,   17,  63,
                                        64, 65, 255, 256, 257, 1023, 1024, 1025, 4099};

/// A tree and its memory. The weight of a leaf is its priority.
class Tree {
 public:
  explicit Tree(std::uint64_t positions)
      : size(positions),
        memory_(SumTree::nbytes(positions) / sizeof(double)),
        tree(SumTree::in(reinterpret_cast<std::byte*>(memory_.data()), positions)) {}

  void set(std::uint64_t position, float priority) {
    tree.set(position, SumTree::key_of(priority), priority);
  }
  void set_alone(std::uint64_t position, float priority) {
    set(position, priority);
    SumTreeUpdate::run(tree, position, position + 1);
  }
  bool equals(const Tree& other) const { return memory_ == other.memory_; }

  std::uint64_t size;

 private:
  std::vector<double, MappedAllocator<double>> memory_;

 public:
  SumTree tree;
};

/// The leaf that the definition names, where sums of weights are exact.
std::uint64_t find_slowly(const SumTree& tree, double mass) {
  double prefix = 0;
  std::uint64_t position = 0;
  while ((prefix += tree.leaf(position).sum) <= mass) ++position;
  return position;
}

TEST(SumTree, FindsTheLeafWhosePrefixExceedsTheMass) {
  Tree four(4);
  const float priorities[] = {0.5f, 1.0f, 0.5f, 0.5f};
  for (std::uint64_t i = 0; i < 4; ++i) four.set_alone(i, priorities[i]);
  EXPECT_EQ(four.tree.total(), 2.5);
  EXPECT_EQ(four.tree.find(0.49), 0u);
  EXPECT_EQ(four.tree.find(0.5), 1u);
  EXPECT_EQ(four.tree.find(1.5), 2u);
  EXPECT_EQ(four.tree.find(2.0), 3u);
  four.set_alone(0, 0.25f);
  EXPECT_EQ(four.tree.total(), 2.25);
}

TEST(SumTree, OfWholeWeightsFindsEachMassExactly) {
  std::mt19937_64 random(3);
  for (const std::uint64_t positions : kPositions) {
    Tree tree(positions);
    for (std::uint64_t i = 0; i < positions; ++i) tree.set(i, static_cast<float>(random() % 4));
    tree.set(random() % positions, 1.0f);
    SumTreeUpdate::run(tree.tree, 0, positions);
    std::vector<double> masses;
    for (double mass = 0; mass < tree.tree.total(); mass += 0.5) masses.push_back(mass);
    std::vector<std::uint64_t> found(masses.size());
    find_all(tree.tree, masses, found);
    for (std::size_t i = 0; i < masses.size(); ++i) {
      ASSERT_EQ(found[i], find_slowly(tree.tree, masses[i])) << positions;
      ASSERT_EQ(found[i], tree.tree.find(masses[i]));
    }
  }
}

TEST(SumTree, NeverFindsALeafWithoutWeight) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> fractions(0.0, 1.0);
  for (const std::uint64_t positions : kPositions) {
    Tree tree(positions);
    for (std::uint64_t i = 0; i < positions; ++i) {
      tree.set(i, random() % 3 == 0 ? 0.0f : std::exp2(static_cast<float>(random() % 120) - 60));
    }
    tree.set(random() % positions, 1.0f);
    SumTreeUpdate::run(tree.tree, 0, positions);
    const double total = tree.tree.total();
    std::vector<double> masses = {0.0, total, std::nextafter(total, 0.0), 2 * total};
    for (int i = 0; i < 2'000; ++i) masses.push_back(fractions(random) * total);
    for (const double mass : masses) ASSERT_GT(tree.tree.leaf(tree.tree.find(mass)).sum, 0.0);
  }
}

TEST(SumTree, ForgetsWhatHasGone) {
  Tree tree(10'001);
  tree.set_alone(0, 1e-15f);
  for (std::uint64_t i = 1; i <= 10'000; ++i) tree.set_alone(i, 0.3f);
  for (std::uint64_t i = 1; i <= 10'000; ++i) tree.set_alone(i, 0.0f);
  EXPECT_EQ(tree.tree.total(), static_cast<double>(1e-15f));
}

TEST(SumTree, KnowsTheLargestKeyAndTheLeastWithWeight) {
  Tree tree(300);
  EXPECT_EQ(tree.tree.largest(), 0);
  tree.set_alone(7, 0.0f);  // there, but without weight
  EXPECT_EQ(tree.tree.largest(), SumTree::key_of(0.0f));
  std::mt19937_64 random(9);
  std::vector<float> priorities(300, -1.0f);
  priorities[7] = 0.0f;
  for (int i = 0; i < 5'000; ++i) {
    const std::uint64_t position = random() % 300;
    priorities[position] = random() % 5 == 0 ? 0.0f : static_cast<float>(random() % 1'000);
    tree.set_alone(position, priorities[position]);
    float least = std::numeric_limits<float>::infinity();
    for (const float one : priorities) least = one > 0 ? std::min(least, one) : least;
    ASSERT_EQ(tree.tree.largest(), SumTree::key_of(*std::ranges::max_element(priorities)));
    if (tree.tree.total() == 0) continue;
    ASSERT_EQ(SumTree::raw_of(tree.tree.least()), least);
  }
}

/// 10 million updates in batches and runs leave the tree that its leaves alone would make.
TEST(SumTree, IsAFunctionOfItsLeaves) {
  std::mt19937_64 random(11);
  for (const std::uint64_t positions : {1ul, 17ul, 1025ul, 100'003ul}) {
    Tree tree(positions);
    SumTreeUpdate update;
    std::vector<std::uint64_t> changed;
    for (int batch = 0; batch < 2'500; ++batch) {
      changed.clear();
      for (int i = 0; i < 1'000; ++i) {
        const std::uint64_t position = random() % positions;
        tree.set(position, static_cast<float>(random() % 1'000'000) * 1.1e-3f);
        changed.push_back(position);
      }
      if (batch % 3 == 0) std::ranges::sort(changed);
      update.some(tree.tree, changed);
      if (batch % 7 == 0) SumTreeUpdate::run(tree.tree, random() % positions, positions);
    }
    Tree anew(positions);
    for (std::uint64_t i = 0; i < positions; ++i) {
      const SumTree::Node& leaf = tree.tree.leaf(i);
      if (leaf.largest != 0) anew.tree.set(i, leaf.largest, leaf.sum);
    }
    SumTreeUpdate::run(anew.tree, 0, positions);
    EXPECT_TRUE(tree.equals(anew)) << positions;
  }
}

}  // namespace
}  // namespace velora
