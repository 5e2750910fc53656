#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <vector>

#include "core/device/flag_mirror.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::LanesOf;

/// Lanes whose rows the device has, and the mirror of their flags.
class Mirrored {
 public:
  Mirrored(std::uint64_t capacity, std::uint32_t num_lanes, std::uint64_t spare_slots = 0)
      : lanes(capacity, num_lanes, spare_slots) {}

  void push_from_host(std::uint32_t lane, std::uint8_t ends = 0) {
    const std::uint8_t flags = lanes.lanes.next_flags(lane, ends);
    mirror.push(lanes.lanes.next_row_index(lane), {lane, lanes.view().end(lane)}, std::byte{flags});
    lanes.push(lane, ends);
  }
  void end_episode(std::uint32_t lane) {
    lanes.end_episode(lane);
    const RowsView view = lanes.view();
    if (view.size(lane) == 0) return;
    const RowId newest = {lane, view.end(lane) - 1};
    mirror.set(view.row_index(newest), std::byte{view.flags(newest)});
  }
  /// Catches up, and returns for how many rows the device was asked.
  std::size_t catch_up() {
    std::size_t asked = 0;
    const RowsView view = lanes.view();
    mirror.catch_up(view, [&](std::span<const RowId> rows) {
      asked += rows.size();
      for (const RowId row : rows) mirror.set(view.row_index(row), std::byte{view.flags(row)});
    });
    return asked;
  }
  void expect_same() const {
    const RowsView rows = lanes.view();
    const RowsView flags = mirror.view(rows);
    for (std::uint32_t lane = 0; lane < rows.num_lanes; ++lane) {
      for (RowId id = {lane, rows.begin(lane)}; id.serial < rows.end(lane); ++id.serial) {
        ASSERT_EQ(flags.flags(id), rows.flags(id)) << lane << ' ' << id.serial;
      }
    }
  }

  LanesOf lanes;
  FlagMirror mirror;
};

TEST(FlagMirror, AsksForRowsThatTheHostDoesNotKnowAlone) {
  Mirrored of(8, 2);
  for (int i = 0; i < 3; ++i) of.push_from_host(0);
  of.lanes.push_many(1, 4);
  EXPECT_EQ(of.catch_up(), 7u) << "nothing was kept before it was asked";
  of.push_from_host(0, kDone);
  of.push_from_host(1);
  of.end_episode(1);
  EXPECT_EQ(of.catch_up(), 0u);
  of.lanes.push(0, kTruncated);
  EXPECT_EQ(of.catch_up(), 1u);
  of.lanes.push_many(1, 30);
  EXPECT_EQ(of.catch_up(), 8u) << "rows that have gone are not missed";
  ASSERT_NO_FATAL_FAILURE(of.expect_same());
  of.lanes.lanes.clear();
  EXPECT_EQ(of.catch_up(), 0u);
  of.push_from_host(1);
  EXPECT_EQ(of.catch_up(), 0u);
  ASSERT_NO_FATAL_FAILURE(of.expect_same());
}

TEST(FlagMirror, AsksForAllRowsOfAnotherBuffer) {
  Mirrored of(8, 1);
  of.lanes.push_many(0, 5);
  of.catch_up();
  of.lanes.lanes.restore(std::vector<SavedLane>{{0, 5, 0}});
  for (int i = 0; i < 5; ++i) of.push_from_host(0, kDone);
  EXPECT_EQ(of.catch_up(), 5u);
  ASSERT_NO_FATAL_FAILURE(of.expect_same());
}

TEST(FlagMirror, AsksForAllRowsAgainWhereTheDeviceFailed) {
  Mirrored of(8, 1);
  of.lanes.push_many(0, 5);
  of.catch_up();
  of.lanes.push(0);
  const auto fails = [](std::span<const RowId>) { throw std::runtime_error("no device"); };
  EXPECT_THROW(of.mirror.catch_up(of.lanes.view(), fails), std::runtime_error);
  EXPECT_EQ(of.catch_up(), 6u);
  ASSERT_NO_FATAL_FAILURE(of.expect_same());
}

TEST(FlagMirror, HasTheFlagsOfAllRowsWheneverItCatchesUp) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    const auto num_lanes = static_cast<std::uint32_t>(1 + random() % 3);
    Mirrored of(1 + random() % 9, num_lanes, random() % 3);
    const std::uint64_t seldom = std::uint64_t{1} << random() % 7;
    for (int step = 0; step < 400; ++step) {
      const auto lane = static_cast<std::uint32_t>(random() % num_lanes);
      const std::uint8_t ends = random() % 4 == 0 ? kDone : 0;
      const std::uint64_t kind = random() % 40;
      if (kind == 0) {
        of.lanes.lanes.clear();
      } else if (kind < 4) {
        of.end_episode(lane);
      } else if (kind < 20) {
        of.lanes.push(lane, ends);
      } else {
        of.push_from_host(lane, ends);
      }
      if (random() % seldom != 0) continue;
      of.catch_up();
      ASSERT_NO_FATAL_FAILURE(of.expect_same()) << "seed " << seed << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace velora
