#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "core/samplers/windows.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::LanesOf;

/// The starts of all windows in their order, by their definition.
std::vector<RowId> find_windows(const RowsView& view, std::uint64_t length, bool crosses) {
  std::vector<RowId> starts;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    std::vector<std::pair<std::uint64_t, RowId>> of_lane;
    for (std::uint64_t serial = view.begin(lane); serial + length <= view.end(lane); ++serial) {
      bool whole = true;
      for (std::uint64_t step = 0; step + 1 < length; ++step) {
        whole = whole && (crosses || view.continues({lane, serial + step}));
      }
      if (whole) of_lane.push_back({serial % view.lane_capacity, {lane, serial}});
    }
    std::sort(of_lane.begin(), of_lane.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [number, start] : of_lane) starts.push_back(start);
  }
  return starts;
}

std::vector<RowId> all_of(const Windows& windows, const RowsView& view) {
  std::vector<RowId> starts;
  for (std::uint64_t number = 0; number < windows.size(); ++number) {
    starts.push_back(windows.locate(view, number));
  }
  return starts;
}

/// Lanes and the windows of one kind, which are told of each row.
class LanesWithWindows {
 public:
  LanesWithWindows(std::uint64_t capacity, std::uint32_t num_lanes, std::uint64_t spare_slots,
                   std::uint64_t length, bool crosses)
      : lanes(capacity, num_lanes, spare_slots), windows(lanes.view(), length, crosses) {}

  void push(std::uint32_t lane, std::uint8_t ends) {
    const std::uint64_t episode = lanes.lanes.states()[lane].episode;
    lanes.push(lane, ends);
    windows.update(lanes.view(), lane, episode);
  }
  void clear() {
    lanes.lanes.clear();
    windows.clear();
  }
  void expect_right() const {
    const RowsView view = lanes.view();
    const std::vector<RowId> expected = find_windows(view, windows.length(), windows.crosses());
    ASSERT_EQ(all_of(windows, view), expected);
    const Windows late(view, windows.length(), windows.crosses());
    ASSERT_EQ(all_of(late, view), expected) << "built late";
  }

  LanesOf lanes;
  Windows windows;
};

void push_at_random(LanesWithWindows& of, std::mt19937_64& random, int steps) {
  const std::uint64_t rarely = 1 + random() % 8;
  for (int step = 0; step < steps; ++step) {
    const auto lane = static_cast<std::uint32_t>(random() % of.lanes.view().num_lanes);
    const bool ends = random() % rarely == 0;
    of.push(lane, ends ? static_cast<std::uint8_t>(1 + random() % kEnds) : std::uint8_t{0});
    ASSERT_NO_FATAL_FAILURE(of.expect_right());
    if (random() % 50 != 0) continue;
    of.clear();
    ASSERT_NO_FATAL_FAILURE(of.expect_right());
  }
}

TEST(Windows, AreThoseOfTheirDefinitionWhateverComesAndGoes) {
  for (const bool crosses : {false, true}) {
    for (std::uint64_t seed = 0; seed < 120; ++seed) {
      std::mt19937_64 random(seed);
      const std::uint64_t capacity = 1 + random() % 12;
      const auto num_lanes = static_cast<std::uint32_t>(1 + random() % 3);
      const std::uint64_t length = 1 + random() % (capacity + 1);
      LanesWithWindows of(capacity, num_lanes, random() % 3, length, crosses);
      ASSERT_NO_FATAL_FAILURE(push_at_random(of, random, 80)) << "seed " << seed;
    }
  }
}

TEST(Windows, AreCountedOverManyGroups) {
  for (const bool crosses : {false, true}) {
    for (const std::uint64_t capacity : {511u, 512u, 513u, 5000u}) {
      std::mt19937_64 random(capacity);
      LanesWithWindows of(capacity, 2, 3, 5, crosses);
      for (std::uint64_t step = 0; step < 5 * capacity; ++step) {
        of.push(static_cast<std::uint32_t>(random() % 2), random() % 9 == 0 ? kDone : 0);
        if (step % (capacity * 3 / 4) != 0) continue;
        ASSERT_NO_FATAL_FAILURE(of.expect_right());
      }
    }
  }
}

TEST(Windows, AreNumberedAlikeWhateverTheSpareSlots) {
  for (const bool crosses : {false, true}) {
    LanesWithWindows plain(7, 2, 0, 3, crosses);
    LanesWithWindows spare(7, 2, 5, 3, crosses);
    std::mt19937_64 random(4);
    for (int step = 0; step < 200; ++step) {
      const auto lane = static_cast<std::uint32_t>(random() % 2);
      const std::uint8_t ends = random() % 5 == 0 ? kTruncated : 0;
      plain.push(lane, ends);
      spare.push(lane, ends);
      ASSERT_EQ(all_of(plain.windows, plain.lanes.view()),
                all_of(spare.windows, spare.lanes.view()));
    }
  }
}

TEST(Windows, LongerThanTheLaneAreNone) {
  for (const bool crosses : {false, true}) {
    LanesWithWindows of(4, 1, 2, 5, crosses);
    for (int step = 0; step < 20; ++step) of.push(0, 0);
    EXPECT_EQ(of.windows.size(), 0u);
  }
}

}  // namespace
}  // namespace velora
