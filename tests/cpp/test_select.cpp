#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/kernels/select.h"
#include "core/random/distinct_draw.h"
#include "core/random/philox.h"
#include "core/samplers/time_order.h"
#include "emulated_group.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::EmulatedGroup;
using testing::LanesOf;

constexpr RowId kNoRow = {RowId::kNoLane, 0};

/// Three lanes on a device: even ones of `rows` each, or one row more in the first.
class DeviceLanes {
 public:
  explicit DeviceLanes(std::uint64_t rows, bool even = true) : of_(8, 3) {
    for (const std::uint32_t lane : {0u, 1u, 2u}) of_.push_many(lane, rows);
    if (!even) of_.push(0);
    control_ = of_.lanes.control();
  }

  /// The rows of a launch in `groups` groups, each of which selects the same.
  std::vector<RowId> select(SelectParams params, std::uint32_t groups = 1) {
    const LaunchRows rows = {.view = of_.view(), .control = &control_, .compact = {}};
    std::vector<RowId> ids;
    for (std::uint32_t g = 0; g < groups; ++g) {
      std::vector<std::uint64_t> memory(params.block_bytes() / sizeof(std::uint64_t) + 1);
      const device::Selection selection =
          device::select(EmulatedGroup(g, groups, 32, g), rows, params,
                         reinterpret_cast<std::byte*>(memory.data()));
      std::vector<RowId> found;
      for (std::uint64_t i = 0; i < params.count; ++i) found.push_back(selection(i));
      if (g == 0) ids = found;
      EXPECT_EQ(found, ids);
    }
    return ids;
  }
  RowsView view() const { return of_.view(); }
  DrawKey next_draw() const { return {.seed = control_.seed, .draw = control_.draws}; }
  std::uint64_t draws() const { return control_.draws; }
  LaunchCounters* counters() { return &counters_; }

 private:
  LanesOf of_;
  ControlBlock control_ = {};
  LaunchCounters counters_ = {};
};

TEST(Select, UniformNamesTheRowsOfTheNextDrawAndCountsItOnce) {
  for (const bool even : {true, false}) {
    DeviceLanes lanes(5, even);
    for (std::uint64_t count = 1; count <= lanes.view().size(); ++count) {
      std::vector<std::uint64_t> drawn(count);
      DrawScratch scratch;
      draw_distinct(lanes.next_draw(), lanes.view().size(), drawn, scratch);
      std::vector<RowId> expected;
      for (const std::uint64_t position : drawn) expected.push_back(lanes.view().locate(position));
      const std::uint64_t before = lanes.draws();
      EXPECT_EQ(
          lanes.select({.kind = SelectKind::kUniform, .count = count, .counters = lanes.counters()},
                       2),
          expected);
      EXPECT_EQ(lanes.draws(), before + 1);
    }
  }
}

TEST(Select, UniformOfMoreThanThereAreNamesNone) {
  DeviceLanes lanes(2);
  EXPECT_EQ(lanes.select({.kind = SelectKind::kUniform, .count = 7, .counters = lanes.counters()}),
            std::vector<RowId>(7, kNoRow));
  EXPECT_EQ(lanes.draws(), 1u);
}

TEST(Select, ReplacedNamesTheFirstCandidatesAndCountsTheirDrawOnce) {
  for (const bool even : {true, false}) {
    DeviceLanes lanes(5, even);
    for (const std::uint64_t count : {1u, 7u, 100u}) {  // the last: more than there are
      const DrawKey key = lanes.next_draw();
      std::vector<RowId> expected;
      for (std::uint32_t i = 0; i < count; ++i) {
        expected.push_back(
            lanes.view().locate(bounded(random_bits(key, i, 0), lanes.view().size())));
      }
      EXPECT_EQ(
          lanes.select(
              {.kind = SelectKind::kReplaced, .count = count, .counters = lanes.counters()}, 3),
          expected);
      EXPECT_EQ(lanes.draws(), key.draw + 1);
    }
  }
}

TEST(Select, ReplacedOfNoRowsNamesNone) {
  DeviceLanes lanes(0);
  EXPECT_EQ(lanes.select({.kind = SelectKind::kReplaced, .count = 3, .counters = lanes.counters()}),
            std::vector<RowId>(3, kNoRow));
}

TEST(Select, ListedNamesNoRowThatIsNotAlive) {
  DeviceLanes lanes(11);  // of which 8 are kept
  const std::vector<std::uint64_t> ids = {
      RowId{1, 2}.packed(), RowId{1, 3}.packed(), RowId{1, 10}.packed(), RowId{1, 11}.packed(),
      RowId{3, 5}.packed(), ~std::uint64_t{0},    std::uint64_t{1} << 63};
  std::vector<RowId> expected(ids.size(), kNoRow);
  expected[1] = {1, 3};
  expected[2] = {1, 10};
  EXPECT_EQ(lanes.select({.kind = SelectKind::kListed, .count = ids.size(), .ids = ids.data()}),
            expected);
}

TEST(Select, TimeOrderNamesRowsUpToTheNewest) {
  DeviceLanes lanes(4);
  RowIds all(12);
  const RowsView view = lanes.view();
  TimeOrder order(0);
  order.catch_up(view);
  order.begin({}, all.size());
  order.next(all);
  std::vector<RowId> expected(all.begin() + 3, all.end());
  expected.resize(11, kNoRow);
  EXPECT_EQ(lanes.select({.kind = SelectKind::kTimeOrder, .count = 11, .start = 3}), expected);
  EXPECT_EQ(lanes.draws(), 0u);
}

TEST(Select, TimeOrderOfUnevenLanesNamesNone) {
  DeviceLanes lanes(4, false);
  EXPECT_EQ(lanes.select({.kind = SelectKind::kTimeOrder, .count = 2}),
            std::vector<RowId>(2, kNoRow));
}

TEST(Select, ListedNamesWhatIsListedAndCountsItsDraw) {
  DeviceLanes lanes(4);
  const std::vector<RowId> expected = {{2, 3}, {0, 0}, {2, 3}};
  std::vector<std::uint64_t> ids;
  for (const RowId id : expected) ids.push_back(id.packed());
  SelectParams params = {.kind = SelectKind::kListed, .count = 3, .ids = ids.data()};
  EXPECT_EQ(lanes.select(params), expected);
  EXPECT_EQ(lanes.draws(), 0u);
  params.counters = lanes.counters();
  EXPECT_EQ(lanes.select(params, 3), expected);
  EXPECT_EQ(lanes.draws(), 1u);
}

}  // namespace
}  // namespace velora
