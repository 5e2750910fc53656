#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "core/rows/count_tree.h"
#include "core/rows/rows_view.h"

namespace velora {
namespace {

constexpr std::uint64_t kGuard = 0xA5A5A5A5A5A5A5A5;

/// A tree and the plain list of the same counts.
class Counts {
 public:
  explicit Counts(std::uint64_t positions)
      : counts_(positions), memory_(CountTree::num_words(positions) + 1) {
    memory_.back() = kGuard;
    tree_ = CountTree::in(memory_.data(), positions);
  }

  void add(std::uint64_t position, std::int64_t change) {
    counts_[position] += static_cast<std::uint64_t>(change);
    tree_.add(position, change);
  }
  /// Compares all counts, and the positions of the items that are `step` apart.
  void expect_same(std::uint64_t step = 1) const {
    ASSERT_EQ(memory_.back(), kGuard);
    ASSERT_EQ(tree_.total(), std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0}));
    std::uint64_t before = 0;
    for (std::uint64_t position = 0; position < counts_.size(); ++position) {
      ASSERT_EQ(tree_.levels[0][position], counts_[position]);
      for (std::uint64_t within = 0; within < counts_[position]; within += step) {
        std::uint64_t item = before + within;
        ASSERT_EQ(tree_.find(item), position) << "item " << before + within;
        ASSERT_EQ(item, within);
      }
      before += counts_[position];
    }
  }
  const CountTree& tree() const { return tree_; }

 private:
  std::vector<std::uint64_t> counts_;
  std::vector<std::uint64_t> memory_;
  CountTree tree_;
};

constexpr std::uint64_t kSizes[] = {1, 2, 15, 16, 17, 255, 256, 257, 4097};

TEST(CountTree, FindsThePlaceOfEachItem) {
  std::mt19937_64 random(1);
  for (const std::uint64_t positions : kSizes) {
    Counts counts(positions);
    counts.expect_same();
    for (std::uint64_t position = 0; position < positions; ++position) {
      if (random() % 3 != 0) counts.add(position, static_cast<std::int64_t>(random() % 5));
    }
    counts.expect_same();
  }
}

TEST(CountTree, CountsThatComeAndGoLeaveTheRest) {
  for (const std::uint64_t positions : kSizes) {
    std::mt19937_64 random(positions);
    Counts counts(positions);
    for (int round = 0; round < 30; ++round) {
      for (int i = 0; i < 20; ++i) {
        const std::uint64_t position = random() % positions;
        const auto present = static_cast<std::int64_t>(counts.tree().levels[0][position]);
        counts.add(position, random() % 2 == 0 ? 3 : -present);
      }
      counts.expect_same();
    }
  }
}

TEST(CountTree, OneItemIsFoundWhereverItIs) {
  for (const std::uint64_t positions : kSizes) {
    Counts counts(positions);
    for (std::uint64_t position = 0; position < positions; ++position) {
      counts.add(position, 1);
      std::uint64_t item = 0;
      ASSERT_EQ(counts.tree().find(item), position);
      ASSERT_EQ(item, 0u);
      counts.add(position, -1);
    }
  }
}

TEST(CountTree, CountsBeyond32BitsAreSummed) {
  Counts counts(17);
  for (std::uint64_t position = 0; position < 17; position += 4)
    counts.add(position, std::int64_t{1} << 40);
  counts.expect_same((std::uint64_t{1} << 38) + 1);
}

TEST(CountTree, LevelsSufficeForAllLanesAndAllRows) {
  Counts counts(RowId::kMaxLanes);
  EXPECT_EQ(counts.tree().num_levels, 5u);
  std::mt19937_64 random(3);
  for (int i = 0; i < 1000; ++i) counts.add(random() % RowId::kMaxLanes, 2);
  counts.add(RowId::kMaxLanes - 1, 1);
  counts.expect_same();
  // Rows are counted in groups of 512: these are more than fit into any memory.
  auto* const somewhere = reinterpret_cast<std::uint64_t*>(std::uintptr_t{4096});
  const CountTree largest = CountTree::in(somewhere, std::uint64_t{1} << 44);
  EXPECT_EQ(largest.num_levels, CountTree::kMaxLevels);
}

}  // namespace
}  // namespace velora
