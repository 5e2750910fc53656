#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "core/samplers/time_order.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::LanesOf;

/// All live rows: the oldest of each lane, then the second of each that has one, and so on.
std::vector<RowId> in_time_order(const RowsView& view) {
  std::vector<RowId> ids;
  for (std::uint64_t rank = 0; rank < view.lane_capacity; ++rank) {
    for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
      if (rank < view.size(lane)) ids.push_back({lane, view.begin(lane) + rank});
    }
  }
  return ids;
}

void expect_all_parts(const RowsView& view) {
  const std::vector<RowId> all = in_time_order(view);
  ASSERT_EQ(view.size(), all.size());
  for (std::uint64_t start = 0; start <= all.size(); ++start) {
    for (std::uint64_t count = 0; count <= all.size() - start; ++count) {
      TimeOrder order(start);
      order.catch_up(view);
      ASSERT_EQ(order.size(), all.size() - start);
      order.begin({}, count);
      RowIds part(count);
      order.next(std::span(part).first(count / 3));
      order.next(std::span(part).subspan(count / 3));
      const auto first = all.begin() + static_cast<long>(start);
      ASSERT_EQ(part, RowIds(first, first + static_cast<long>(count))) << start << ' ' << count;
    }
  }
}

TEST(TimeOrder, EvenLanesAreReadStepByStep) {
  for (const std::uint32_t num_lanes : {1u, 2u, 5u}) {
    LanesOf of(4, num_lanes);
    for (int step = 0; step < 9; ++step) {
      for (std::uint32_t lane = 0; lane < num_lanes; ++lane) of.push(lane);
      expect_all_parts(of.view());
    }
  }
}

TEST(TimeOrder, UnevenLanesGiveWhatTheyHave) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    const auto num_lanes = static_cast<std::uint32_t>(1 + random() % 6);
    LanesOf of(1 + random() % 6, num_lanes, random() % 3);
    for (std::uint32_t lane = 0; lane < num_lanes; ++lane) {
      if (random() % 4 != 0) of.push_many(lane, random() % 12);
    }
    expect_all_parts(of.view());
    if (seed % 3 != 0) continue;
    of.lanes.clear();
    of.push_many(num_lanes - 1, random() % 5);
    expect_all_parts(of.view());
  }
}

TEST(TimeOrder, OneFullLaneAmongManyEmptyOnesIsRead) {
  LanesOf of(20, 300);
  of.push_many(299, 33);
  expect_all_parts(of.view());
}

}  // namespace
}  // namespace velora
