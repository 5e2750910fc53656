#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/random/distinct_draw.h"
#include "core/samplers/window_index.h"
#include "core/samplers/windows.h"
#include "core/values/errors.h"
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

/// Those that the index has, after it has caught up.
std::vector<RowId> all_of(Windows& windows, const RowsView& view) {
  windows.catch_up(view);
  std::vector<RowId> starts;
  for (std::uint64_t number = 0; number < windows.size(); ++number) {
    starts.push_back(windows.locate(number));
  }
  return starts;
}

/// Lanes and the windows of one kind, which catch up when they are compared.
class LanesWithWindows {
 public:
  LanesWithWindows(std::uint64_t capacity, std::uint32_t num_lanes, std::uint64_t spare_slots,
                   std::uint64_t length, bool crosses)
      : lanes(capacity, num_lanes, spare_slots), windows(lanes.view(), length, crosses, scratch_) {}

  void expect_right() {
    const RowsView view = lanes.view();
    const std::vector<RowId> expected = find_windows(view, windows.length(), windows.crosses());
    ASSERT_EQ(all_of(windows, view), expected);
    Windows late(view, windows.length(), windows.crosses(), scratch_);
    ASSERT_EQ(all_of(late, view), expected) << "built late";
  }

 private:
  DrawScratch scratch_;

 public:
  LanesOf lanes;
  Windows windows;
};

std::uint8_t random_ends(std::mt19937_64& random, std::uint64_t rarely) {
  return random() % rarely == 0 ? static_cast<std::uint8_t>(1 + random() % kEnds) : std::uint8_t{0};
}

/// Other rows in place of all that there are.
void restore_at_random(LanesOf& lanes, std::mt19937_64& random, std::uint64_t rarely) {
  const RowsView view = lanes.view();
  std::vector<SavedLane> saved;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    const std::uint64_t first = random() % 40;
    saved.push_back({.first = first,
                     .pushed = first + random() % (view.lane_slots + 1),
                     .episode = random() % (first + 1)});
  }
  lanes.lanes.restore(saved);
  for (std::uint32_t lane = 0; lane < saved.size(); ++lane) {
    for (std::uint64_t serial = saved[lane].first; serial < saved[lane].pushed; ++serial) {
      lanes.push(lane, random_ends(random, rarely));
    }
  }
}

void change_at_random(LanesOf& lanes, std::mt19937_64& random, std::uint64_t rarely) {
  const auto lane = static_cast<std::uint32_t>(random() % lanes.view().num_lanes);
  const std::uint64_t kind = random() % 100;
  if (kind < 2) return lanes.lanes.clear();
  if (kind < 4) return restore_at_random(lanes, random, rarely);
  if (kind < 10) return lanes.end_episode(lane);
  lanes.push(lane, random_ends(random, rarely));
}

TEST(Windows, AreThoseOfTheirDefinitionWheneverTheyCatchUp) {
  for (const bool crosses : {false, true}) {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      std::mt19937_64 random(seed);
      const std::uint64_t capacity = 1 + random() % 12;
      const auto num_lanes = static_cast<std::uint32_t>(1 + random() % 3);
      const std::uint64_t length = 1 + random() % (capacity + 1);
      LanesWithWindows of(capacity, num_lanes, random() % 3, length, crosses);
      const std::uint64_t rarely = 1 + random() % 8;
      const std::uint64_t seldom = std::uint64_t{1} << random() % 8;  // is it asked
      for (int step = 0; step < 250; ++step) {
        change_at_random(of.lanes, random, rarely);
        if (random() % seldom != 0) continue;
        ASSERT_NO_FATAL_FAILURE(of.expect_right()) << "seed " << seed << ", step " << step;
      }
      ASSERT_NO_FATAL_FAILURE(of.expect_right()) << "seed " << seed;
    }
  }
}

TEST(Windows, AreCountedOverManyGroups) {
  for (const bool crosses : {false, true}) {
    for (const std::uint64_t capacity : {511u, 512u, 513u, 5000u}) {
      std::mt19937_64 random(capacity);
      LanesWithWindows of(capacity, 2, 3, 5, crosses);
      for (std::uint64_t step = 0; step < 8 * capacity; ++step) {
        of.lanes.push(static_cast<std::uint32_t>(random() % 2), random() % 9 == 0 ? kDone : 0);
        if (step % (capacity * 3 / 4) != 0 || step / capacity == 5) continue;
        ASSERT_NO_FATAL_FAILURE(of.expect_right());
      }
    }
  }
}

TEST(Windows, OfALaneThatWasOverwrittenUnseenAreRebuilt) {
  LanesWithWindows of(700, 3, 0, 4, false);
  for (std::uint32_t lane = 0; lane < 3; ++lane) of.lanes.push_many(lane, 650);
  ASSERT_NO_FATAL_FAILURE(of.expect_right());
  for (int step = 0; step < 2000; ++step) of.lanes.push(1, step % 7 == 0 ? kDone : 0);
  ASSERT_NO_FATAL_FAILURE(of.expect_right());
  EXPECT_GT(of.windows.size(), 2u * 647);
}

TEST(Windows, AnEndThatIsMarkedLaterPartsWhatComesThen) {
  for (const bool caught_up : {false, true}) {
    LanesWithWindows of(9, 1, 0, 2, false);
    of.lanes.push_many(0, 3);
    if (caught_up) of.windows.catch_up(of.lanes.view());
    of.lanes.end_episode(0);
    of.lanes.push_many(0, 2);
    ASSERT_NO_FATAL_FAILURE(of.expect_right());
    EXPECT_EQ(all_of(of.windows, of.lanes.view()), (std::vector<RowId>{{0, 0}, {0, 1}, {0, 3}}));
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
      plain.lanes.push(lane, ends);
      spare.lanes.push(lane, ends);
      ASSERT_EQ(all_of(plain.windows, plain.lanes.view()),
                all_of(spare.windows, spare.lanes.view()));
    }
  }
}

TEST(Windows, LongerThanTheLaneAreNone) {
  for (const bool crosses : {false, true}) {
    LanesWithWindows of(4, 1, 2, 5, crosses);
    for (int step = 0; step < 20; ++step) of.lanes.push(0, 0);
    of.windows.catch_up(of.lanes.view());
    EXPECT_EQ(of.windows.size(), 0u);
  }
}

TEST(Windows, ADrawIsOfDistinctWindowsByTheirNumbers) {
  LanesWithWindows of(50, 2, 0, 3, false);
  for (int step = 0; step < 130; ++step) {
    of.lanes.push(static_cast<std::uint32_t>(step % 2), step % 11 == 0 ? kDone : 0);
  }
  const RowsView view = of.lanes.view();
  const std::vector<RowId> all = all_of(of.windows, view);
  const DrawKey key = {.seed = 5, .draw = 6};
  std::vector<std::uint64_t> numbers(40);
  DrawScratch scratch;
  draw_distinct(key, all.size(), numbers, scratch);
  std::vector<RowId> drawn(40);
  EXPECT_THROW(of.windows.next(drawn), std::logic_error);
  of.windows.begin(key, drawn.size());
  of.windows.next(std::span(drawn).first(16));
  of.windows.next(std::span(drawn).subspan(16));
  for (std::size_t i = 0; i < drawn.size(); ++i) EXPECT_EQ(drawn[i], all[numbers[i]]);
  EXPECT_THROW(of.windows.begin(key, all.size() + 1), ValueError);
}

TEST(WindowIndex, WindowsOfEachKindAreRightHoweverManyAreAskedFor) {
  LanesOf lanes(6, 2);
  DrawScratch scratch;
  WindowIndex index(scratch);
  std::mt19937_64 random(5);
  for (int step = 0; step < 300; ++step) {
    change_at_random(lanes, random, 4);
    const std::uint64_t length = 1 + random() % 3;
    const bool crosses = random() % 2 == 0;
    const RowsView view = lanes.view();
    Windows& windows = index.find(view, length, crosses);
    ASSERT_EQ(windows.length(), length);
    ASSERT_EQ(windows.crosses(), crosses);
    ASSERT_EQ(all_of(windows, view), find_windows(view, length, crosses));
  }
}

}  // namespace
}  // namespace velora
