#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "core/rows/lanes.h"
#include "core/values/errors.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::LanesOf;

constexpr std::uint64_t kPitch = LanesOf::kPitch;

TEST(RowId, UnpackGivesWhatWasPacked) {
  for (const RowId id : {RowId{0, 0}, RowId{RowId::kMaxLanes - 1, RowId::kMaxSerial}}) {
    EXPECT_EQ(RowId::unpack(id.packed()), id);
    EXPECT_GE(static_cast<std::int64_t>(id.packed()), 0);
  }
}

TEST(Lanes, SlotIsSerialModuloSlots) {
  for (const std::uint64_t capacity : {1u, 2u, 3u, 7u}) {
    for (const std::uint64_t spare : {0u, 1u, 3u}) {
      const std::uint64_t slots = capacity + spare;
      LanesOf of(capacity, 2, spare);
      for (std::uint64_t serial = 0; serial < 4 * slots; ++serial) {
        EXPECT_EQ(of.lanes.next_row_index(1), slots + serial % slots);
        of.push(1);
        const RowsView view = of.view();
        for (std::uint64_t present = view.present(1); present < view.end(1); ++present) {
          EXPECT_EQ(view.slot({1, present}), present % slots);
          EXPECT_EQ(view.row_index({1, present}), slots + present % slots);
        }
      }
      EXPECT_EQ(of.view().size(0), 0u);
    }
  }
}

TEST(Lanes, SpareSlotsKeepRowsThatAreNoLongerAlive) {
  LanesOf of(3, 1, 2);
  for (std::uint64_t pushed = 0; pushed < 12; ++pushed) {
    const RowsView view = of.view();
    EXPECT_EQ(view.begin(0), pushed > 3 ? pushed - 3 : 0);
    EXPECT_EQ(view.present(0), pushed > 5 ? pushed - 5 : 0);
    of.push(0);
  }
  EXPECT_FALSE(of.view().alive({0, 8}));
  EXPECT_TRUE(of.view().alive({0, 9}));
  of.lanes.clear();
  EXPECT_EQ(of.view().present(0), 12u);
}

TEST(Lanes, NewestRowsAreAlive) {
  LanesOf of(3, 2);
  for (int i = 0; i < 5; ++i) of.push(0);
  const RowsView view = of.view();
  EXPECT_EQ(view.size(0), 3u);
  EXPECT_FALSE(view.alive({0, 1}));
  EXPECT_TRUE(view.alive({0, 2}));
  EXPECT_TRUE(view.alive({0, 4}));
  EXPECT_FALSE(view.alive({0, 5}));
  EXPECT_FALSE(view.alive({1, 0}));
  EXPECT_FALSE(view.alive({2, 4}));
}

TEST(Lanes, ClearTakesOutAllAndKeepsCounting) {
  LanesOf of(3, 2);
  for (int i = 0; i < 5; ++i) of.push(0);
  of.push(1);
  of.lanes.clear();
  EXPECT_EQ(of.view().size(0), 0u);
  EXPECT_EQ(of.view().size(1), 0u);
  of.push(0);
  EXPECT_EQ(of.view().size(0), 1u);
  EXPECT_EQ(of.view().begin(0), 5u);
  EXPECT_EQ(of.view().slot({0, 5}), 5u % 3);
}

TEST(Lanes, FirstRowOfEachEpisodeIsMarked) {
  LanesOf of(10, 2);
  EXPECT_EQ(of.lanes.next_flags(0, 0), kFirst);
  EXPECT_EQ(of.lanes.next_flags(0, kDone), kFirst | kDone);
  of.push(0);
  EXPECT_EQ(of.lanes.next_flags(0, kTruncated), kTruncated);
  EXPECT_EQ(of.lanes.next_flags(1, 0), kFirst) << "lanes have episodes of their own";
  for (const std::uint8_t ends : {kDone, kTruncated, kEnds}) {
    of.push(0, ends);
    EXPECT_EQ(of.lanes.next_flags(0, 0), kFirst);
    of.push(0);
    EXPECT_EQ(of.lanes.next_flags(0, 0), 0);
  }
  of.lanes.clear();
  EXPECT_EQ(of.lanes.next_flags(0, 0), 0) << "the episode goes on";
  of.push(0, kDone);
  of.lanes.clear();
  EXPECT_EQ(of.lanes.next_flags(0, 0), kFirst);
}

TEST(Lanes, SizesAreThoseOfEachLane) {
  for (const std::uint32_t num_lanes : {1u, 2u, 3u, 17u, 300u}) {
    std::mt19937_64 random(num_lanes);
    LanesOf of(3, num_lanes, 1);
    std::vector<std::uint64_t> sizes(num_lanes);
    for (int step = 0; step < 900; ++step) {
      const auto lane = static_cast<std::uint32_t>(random() % num_lanes);
      of.push(lane);
      sizes[lane] += sizes[lane] < 3 ? 1 : 0;
      if (step % 100 != 0 && step < 890) continue;
      if (random() % 4 == 0) {
        of.lanes.clear();
        sizes.assign(num_lanes, 0);
      }
      std::uint64_t total = 0;
      for (std::uint32_t l = 0; l < num_lanes; ++l) {
        ASSERT_EQ(of.view().size(l), sizes[l]);
        ASSERT_EQ(of.view().sizes.levels[0][l], sizes[l]);
        total += sizes[l];
      }
      ASSERT_EQ(of.view().size(), total);
    }
  }
}

TEST(Lanes, EvenSizeIsThatOfEqualLanes) {
  LanesOf of(2, 3);
  EXPECT_EQ(of.view().even_size, 0u);
  const std::uint64_t expected[] = {0, 0, 1, 0, 0, 2, 2, 2, 2};
  for (std::uint32_t push = 0; push < 9; ++push) {
    of.push(push % 3);
    EXPECT_EQ(of.view().even_size, expected[push]) << push;
  }
  of.lanes.clear();
  EXPECT_EQ(of.view().even_size, 0u);
  EXPECT_EQ(of.view().size(), 0u);
  for (const std::uint32_t lane : {0u, 1u}) of.push(lane);
  EXPECT_EQ(of.view().even_size, 0u);
  of.push(2);
  EXPECT_EQ(of.view().even_size, 1u);
}

/// Gives `of` the lanes that were saved, with the rows that `from` has of them.
void restore(LanesOf& of, const std::vector<SavedLane>& saved, const LanesOf& from) {
  std::uint64_t rows = 0;
  for (const SavedLane& lane : saved) rows += lane.pushed - lane.first;
  of.lanes.check(saved, rows * kPitch);
  of.lanes.restore(saved);
  for (std::uint32_t lane = 0; lane < saved.size(); ++lane) {
    for (std::uint64_t serial = saved[lane].first; serial < saved[lane].pushed; ++serial) {
      of.push(lane, from.view().flags({lane, serial}) & kEnds);
    }
  }
}

TEST(Lanes, RestoreOfWhatWasSavedGivesTheSameLanes) {
  for (const std::uint64_t spare : {0u, 2u}) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      std::mt19937_64 random(seed);
      LanesOf of(3, 2, spare);
      const std::uint64_t pushes = random() % 25;
      const std::uint64_t cleared_after = random() % 25;
      for (std::uint64_t i = 0; i < pushes; ++i) {
        const auto lane = static_cast<std::uint32_t>(random() % 2);
        of.push(lane, random() % 4 == 0 ? kDone : std::uint8_t{0});
        if (i == cleared_after) of.lanes.clear();
      }
      LanesOf other(3, 2, spare);
      other.push_many(1, random() % 9);
      restore(other, of.lanes.save(), of);
      EXPECT_EQ(other.view().even_size, of.view().even_size);
      EXPECT_EQ(other.view().size(), of.view().size());
      for (const std::uint32_t lane : {0u, 1u}) {
        EXPECT_EQ(other.view().begin(lane), of.view().begin(lane));
        EXPECT_EQ(other.view().end(lane), of.view().end(lane));
        EXPECT_EQ(other.view().present(lane), of.view().present(lane));
        EXPECT_EQ(other.view().sizes.levels[0][lane], of.view().size(lane));
        EXPECT_EQ(other.lanes.next_row_index(lane), of.lanes.next_row_index(lane));
        EXPECT_EQ(other.lanes.states()[lane].episode, of.lanes.states()[lane].episode);
      }
    }
  }
}

TEST(Lanes, RestoreExpectsTheRowsBeforePushed) {
  for (std::uint64_t pushed = 0; pushed < 9; ++pushed) {
    const std::uint64_t count = pushed < 3 ? pushed : 3;
    LanesOf of(3, 1);
    of.push_many(0, 2);
    const SavedLane saved[] = {{.first = pushed - count, .pushed = pushed, .episode = 0}};
    of.lanes.check(saved, count * kPitch);
    of.lanes.restore(saved);
    for (std::uint64_t i = 0; i < count; ++i) {
      EXPECT_EQ(of.lanes.next_row_index(0), (pushed - count + i) % 3);
      of.push(0);
    }
    EXPECT_EQ(of.view().end(0), pushed);
    EXPECT_EQ(of.view().size(0), count);
  }
}

TEST(Lanes, RowsThatCannotBeAreRefused) {
  const LanesOf of(3, 1);
  const auto refuses = [&](const std::vector<SavedLane>& lanes, std::size_t nbytes) {
    EXPECT_THROW(of.lanes.check(lanes, nbytes), ValueError);
  };
  refuses({{5, 9, 0}}, 4 * kPitch);
  refuses({{2, 1, 0}}, 0);
  refuses({{RowId::kMaxSerial, RowId::kMaxSerial + 1, 0}}, kPitch);
  refuses({{0, 1, 2}}, kPitch);
  refuses({{0, 2, 0}}, kPitch);
  refuses({{0, 2, 0}}, 3 * kPitch);
  refuses({{0, 1, 0}}, kPitch + 1);
  refuses({}, 0);
  refuses({{0, 1, 0}, {0, 1, 0}}, 2 * kPitch);
  EXPECT_NO_THROW(of.lanes.check(std::vector<SavedLane>{{0, 1, 0}}, kPitch));
  EXPECT_NO_THROW(of.lanes.check(std::vector<SavedLane>{{6, 9, 9}}, 3 * kPitch));
}

TEST(Lanes, DrawsAreCounted) {
  LanesOf of(3, 1);
  EXPECT_EQ(of.lanes.next_draw().seed, 7u);
  EXPECT_EQ(of.lanes.next_draw().draw, 0u);
  of.lanes.count_draw();
  EXPECT_EQ(of.lanes.next_draw().draw, 1u);
  of.lanes.set_draws(41);
  EXPECT_EQ(of.lanes.next_draw().draw, 41u);
}

TEST(RowsView, EpisodeContinuesUntilDoneTruncatedOrTheNewestRow) {
  LanesOf of(4, 2);
  of.push(0);
  of.push(0, kDone);
  of.push(0, kTruncated);
  of.push(0);
  of.push(1);  // the other lane's row is nobody's successor
  const RowsView view = of.view();
  EXPECT_TRUE(view.continues({0, 0}));
  EXPECT_FALSE(view.continues({0, 1}));
  EXPECT_FALSE(view.continues({0, 2}));
  EXPECT_FALSE(view.continues({0, 3}));
  EXPECT_FALSE(view.continues({0, 4}));
  of.push(0);
  EXPECT_TRUE(of.view().continues({0, 3}));
  EXPECT_FALSE(of.view().continues({0, 0})) << "it was overwritten";
}

TEST(RowsView, FoundEndIsTheFirstRowThatEndsAnEpisode) {
  for (const std::uint64_t spare : {0u, 3u}) {
    std::mt19937_64 random(spare);
    LanesOf of(7, 2, spare);
    for (int i = 0; i < 60; ++i) {
      of.push(static_cast<std::uint32_t>(random() % 2), random() % 4 == 0 ? kTruncated : 0);
      const RowsView view = of.view();
      for (const std::uint32_t lane : {0u, 1u}) {
        for (RowId id = {lane, view.begin(lane)}; id.serial < view.end(lane); ++id.serial) {
          for (const std::uint64_t most : {1u, 2u, 5u, 9u}) {
            const std::uint64_t end = std::min(id.serial + most, view.end(lane));
            std::uint64_t found = id.serial;
            while (found < end && (view.flags({lane, found}) & kEnds) == 0) ++found;
            EXPECT_EQ(view.find_end(lane, id.serial, end), found);
          }
        }
      }
    }
  }
}

TEST(Lanes, EpisodeIsEndedOnceAndOnlyWhereItWentOn) {
  LanesOf of(3, 1);
  EXPECT_FALSE(of.lanes.end_episode(0)) << "there is no row";
  of.push(0);
  EXPECT_TRUE(of.lanes.end_episode(0));
  EXPECT_FALSE(of.lanes.end_episode(0));
  EXPECT_EQ(of.lanes.next_flags(0, 0), kFirst);
  of.push(0, kDone);
  EXPECT_FALSE(of.lanes.end_episode(0));
  of.push(0);
  of.lanes.clear();
  EXPECT_FALSE(of.lanes.end_episode(0)) << "its row was taken out";
  EXPECT_EQ(of.lanes.next_flags(0, 0), kFirst);
}

TEST(RowsView, LocateCountsLiveRowsLaneByLane) {
  for (const std::uint32_t num_lanes : {1u, 2u, 5u, 16u, 17u, 257u}) {
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
      std::mt19937_64 random(seed);
      LanesOf of(4, num_lanes, 1);
      for (std::uint32_t lane = 0; lane < num_lanes; ++lane) {
        of.push_many(lane, seed == 0 ? 3 : seed == 1 ? 9 : random() % 8);
      }
      const RowsView view = of.view();
      std::uint64_t position = 0;
      for (std::uint32_t lane = 0; lane < num_lanes; ++lane) {
        for (std::uint64_t serial = view.begin(lane); serial < view.end(lane); ++serial) {
          ASSERT_EQ(view.locate(position++), (RowId{lane, serial}));
        }
      }
      ASSERT_EQ(view.size(), position);
    }
  }
}

TEST(RowsView, LocateFindsTheOnlyRowOfManyLanes) {
  LanesOf of(1, RowId::kMaxLanes);
  of.push(RowId::kMaxLanes - 1);
  EXPECT_EQ(of.view().locate(0), (RowId{RowId::kMaxLanes - 1, 0}));
  EXPECT_EQ(of.view().size(), 1u);
}

TEST(RowExtent, CheckRefusesWhatIsOutOfRange) {
  EXPECT_NO_THROW((RowExtent{1, 1, kPitch}.check()));
  EXPECT_NO_THROW((RowExtent{RowExtent::kMaxLaneCapacity, RowId::kMaxLanes, kPitch}.check()));
  EXPECT_THROW((RowExtent{0, 1, kPitch}.check()), ValueError);
  EXPECT_THROW((RowExtent{RowExtent::kMaxLaneCapacity + 1, 1, kPitch}.check()), ValueError);
  EXPECT_THROW((RowExtent{1, 0, kPitch}.check()), ValueError);
  EXPECT_THROW((RowExtent{1, RowId::kMaxLanes + 1, kPitch}.check()), ValueError);
}

TEST(RowExtent, BytesThatOverflowAreTheMost) {
  EXPECT_EQ((RowExtent{10, 3, kPitch}.nbytes()), 480u);
  EXPECT_EQ((RowExtent{10, 3, kPitch, 2}.nbytes()), 576u);
  EXPECT_EQ((RowExtent{RowExtent::kMaxLaneCapacity, RowId::kMaxLanes, 1u << 20}.nbytes()),
            SIZE_MAX);
}

}  // namespace
}  // namespace velora
