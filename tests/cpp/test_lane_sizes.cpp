#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "core/rows/lane_sizes.h"
#include "core/rows/lanes.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::LanesOf;

/// The sizes by the states of lanes, lane by lane.
void expect_right(const LaneSizes& sizes, const RowsView& view) {
  std::uint64_t total = 0;
  std::uint64_t largest = 0;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    const std::uint64_t size = view.size(lane);
    ASSERT_EQ(sizes.tree().levels[0][lane], size);
    total += size;
    largest = std::max(largest, size);
  }
  ASSERT_EQ(sizes.tree().total(), total);
  ASSERT_EQ(*sizes.largest(), largest);
}

void restore_at_random(LanesOf& of, std::mt19937_64& random) {
  const RowsView view = of.view();
  std::vector<SavedLane> saved;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    const std::uint64_t first = random() % 9;
    saved.push_back({first, first + random() % (view.lane_slots + 1), first});
  }
  of.lanes.restore(saved);
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    of.push_many(lane, saved[lane].pushed - saved[lane].first);
  }
}

TEST(LaneSizes, AreThoseOfTheLanesWheneverTheyCatchUp) {
  for (const std::uint32_t num_lanes : {1u, 2u, 3u, 17u, 64u, 65u, 300u}) {
    std::mt19937_64 random(num_lanes);
    LanesOf of(3, num_lanes, 1);
    std::vector<LaneSizes> readers;
    for (int i = 0; i < 4; ++i) readers.emplace_back(num_lanes);
    for (int step = 0; step < 3000; ++step) {
      const std::uint64_t kind = random() % 300;
      const auto lane = static_cast<std::uint32_t>(random() % num_lanes);
      if (kind == 0) {
        of.lanes.clear();
      } else if (kind == 1) {
        restore_at_random(of, random);
      } else if (kind < 10) {
        of.end_episode(lane);
      } else {
        of.push(lane);
      }
      for (std::size_t i = 0; i < readers.size(); ++i) {
        if (random() % (std::uint64_t{1} << 3 * i) != 0) continue;
        const RowsView view = of.view();
        readers[i].catch_up(view);
        ASSERT_NO_FATAL_FAILURE(expect_right(readers[i], view)) << num_lanes << ' ' << step;
      }
    }
  }
}

TEST(LaneSizes, OfFullLanesFollowAClear) {
  LanesOf of(2, 3);
  LaneSizes sizes(3);
  for (std::uint32_t lane = 0; lane < 3; ++lane) of.push_many(lane, 5);
  sizes.catch_up(of.view());
  EXPECT_EQ(sizes.tree().total(), 6u);
  of.push(1);
  sizes.catch_up(of.view());
  of.lanes.clear();
  of.push(2);
  sizes.catch_up(of.view());
  ASSERT_NO_FATAL_FAILURE(expect_right(sizes, of.view()));
  EXPECT_EQ(sizes.tree().total(), 1u);
}

}  // namespace
}  // namespace velora
