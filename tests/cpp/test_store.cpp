#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/host/store.h"
#include "core/values/errors.h"
#include "history.h"

namespace velora {
namespace {

using testing::Bytes;
using testing::History;
using testing::mixed_layout;
using testing::random_rows;
using testing::RowSet;

/// A Store and the history of it.
class Recorded {
 public:
  Recorded(std::uint64_t capacity, std::uint32_t num_lanes)
      : store(mixed_layout(), capacity, num_lanes, 0), history(capacity, num_lanes) {}

  void append(const LaneOrder& order, std::size_t count) {
    RowSet rows = random_rows(random, store.layout(), count);
    store.append(order, rows.source(), count);
    history.append(order, std::move(rows));
  }
  void append_to(std::uint32_t lane, std::size_t count = 1) {
    const std::vector<std::uint32_t> lanes(count, lane);
    append({.lanes = lanes.data(), .num_lanes = history.num_lanes()}, count);
  }
  /// Compares every field and the flags of all live rows.
  void expect_same() const { expect_same_rows(store, history); }
  static void expect_same_rows(const Store& store, const History& history) {
    const RowsView view = store.view();
    for (std::uint32_t lane = 0; lane < history.num_lanes(); ++lane) {
      ASSERT_EQ(view.begin(lane), history.begin(lane));
      ASSERT_EQ(view.end(lane), history.end(lane));
    }
    for (const RowId id : history.live()) {
      ASSERT_EQ(view.flags(id), history.flags(id)) << id.lane << ' ' << id.serial;
      for (std::size_t f = 0; f < store.layout().fields().size(); ++f) {
        const Field& field = store.layout().fields()[f];
        ASSERT_EQ(std::memcmp(view.row(id) + field.offset, history.at(id, f), field.nbytes), 0)
            << field.name << " of " << id.lane << ' ' << id.serial;
      }
    }
  }

  Store store;
  History history;
  std::mt19937_64 random{1};
};

Bytes saved_rows(Store& store) {
  Bytes bytes(count_rows(ranges_of(store.lanes().save())) * store.layout().pitch());
  EXPECT_TRUE(testing::save_to(bytes, store).empty()) << "whole rows have no blocks";
  return bytes;
}

TEST(Store, NewestRowsOfEachLaneAreKept) {
  for (const std::uint64_t capacity : {1u, 2u, 5u}) {
    Recorded recorded(capacity, 2);
    for (std::size_t i = 0; i < 4 * capacity; ++i) {
      recorded.append_to(static_cast<std::uint32_t>(recorded.random() % 2));
      ASSERT_NO_FATAL_FAILURE(recorded.expect_same());
    }
  }
}

TEST(Store, RowsOfAllLanesInTurnGoToTheirs) {
  for (const std::uint32_t num_lanes : {1u, 3u, 20u}) {
    for (const std::size_t steps : {1u, 2u, 7u, 40u}) {
      Recorded recorded(6, num_lanes);
      for (int round = 0; round < 3; ++round) {
        recorded.append({.lanes = nullptr, .num_lanes = num_lanes}, steps * num_lanes);
        ASSERT_NO_FATAL_FAILURE(recorded.expect_same());
      }
    }
  }
}

TEST(Store, RowsAtOnceAreThoseOneByOneWhateverTheOrderOfLanes) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    std::mt19937_64 random(seed);
    const auto num_lanes = static_cast<std::uint32_t>(1 + random() % 4);
    Recorded recorded(1 + random() % 20, num_lanes);
    for (int round = 0; round < 5; ++round) {
      std::vector<std::uint32_t> lanes(1 + random() % 50);
      for (std::uint32_t& lane : lanes) lane = static_cast<std::uint32_t>(random() % num_lanes);
      recorded.append({.lanes = lanes.data(), .num_lanes = num_lanes}, lanes.size());
      ASSERT_NO_FATAL_FAILURE(recorded.expect_same()) << "seed " << seed;
      if (random() % 6 != 0) continue;
      recorded.store.clear();
      recorded.history.clear();
      ASSERT_NO_FATAL_FAILURE(recorded.expect_same());
    }
  }
}

/// Rows of three cache lines, in stores that no cache holds.
TEST(Store, ManyRowsAtOnceAreThoseOneByOneInLargeStores) {
  const RowLayout layout(
      {{.name = "state", .role = Role::kState, .dtype = DType::kFloat32, .shape = {17}},
       {.name = "action", .role = Role::kAction, .dtype = DType::kFloat32, .shape = {6}},
       {.name = "reward", .role = Role::kReward, .dtype = DType::kFloat32, .shape = {1}},
       {.name = "next_state", .role = Role::kNextState, .dtype = DType::kFloat32, .shape = {17}}});
  ASSERT_EQ(layout.pitch(), 192u);
  for (const std::uint32_t num_lanes : {1u, 3u}) {
    constexpr std::size_t kCount = 3 * 1403;
    Store at_once(layout, 400'000 / num_lanes, num_lanes, 0);
    Store one_by_one(layout, 400'000 / num_lanes, num_lanes, 0);
    std::mt19937_64 random(num_lanes);
    const RowSet rows = random_rows(random, layout, kCount);
    const LaneOrder order = {.lanes = nullptr, .num_lanes = num_lanes};
    at_once.append(order, rows.source(), kCount);
    for (std::size_t i = 0; i < kCount; ++i) {
      std::vector<const std::byte*> fields;
      for (std::size_t f = 0; f < layout.fields().size(); ++f) {
        fields.push_back(rows.source().fields[f] + i * layout.fields()[f].nbytes);
      }
      const RowSource row = {.fields = fields.data(),
                             .done = rows.source().done + i,
                             .truncated = rows.source().truncated + i};
      one_by_one.append(order.from(i), row, 1);
    }
    ASSERT_EQ(saved_rows(at_once), saved_rows(one_by_one)) << num_lanes << " lanes";
  }
}

TEST(Store, FlagsAreAnyByteButZero) {
  Store store(mixed_layout(), 3, 1, 0);
  std::mt19937_64 random(3);
  const RowSet rows = random_rows(random, store.layout(), 3);
  const std::byte done[] = {std::byte{0}, std::byte{2}, std::byte{255}};
  const RowSource source = {.fields = rows.source().fields, .done = done, .truncated = nullptr};
  store.append({.lanes = nullptr, .num_lanes = 1}, source, 3);
  EXPECT_EQ(store.view().flags({0, 0}), kFirst);
  EXPECT_EQ(store.view().flags({0, 1}), kDone);
  EXPECT_EQ(store.view().flags({0, 2}), kFirst | kDone);
}

TEST(Store, RestoreGivesTheSameRowsInTheSamePlaces) {
  for (const std::size_t pushes : {0u, 2u, 3u, 8u}) {
    Recorded recorded(3, 2);
    if (pushes > 0) recorded.append_to(1, pushes);
    if (pushes > 2) recorded.append_to(0, 1);
    Recorded other(3, 2);
    other.append_to(0, 5);
    other.store.import_rows({recorded.store.lanes().save(), saved_rows(recorded.store), {}});
    ASSERT_NO_FATAL_FAILURE(Recorded::expect_same_rows(other.store, recorded.history));
    for (const std::uint32_t lane : {0u, 1u}) {
      EXPECT_EQ(other.store.lanes().next_row_index(lane),
                recorded.store.lanes().next_row_index(lane));
    }
  }
}

TEST(Store, RestoreThatIsRefusedChangesNothing) {
  Recorded recorded(3, 1);
  recorded.append_to(0, 2);
  const auto refuses = [&](SavedLane lane, std::size_t row_bytes, std::size_t block_bytes) {
    EXPECT_THROW(recorded.store.import_rows({{&lane, 1}, Bytes(row_bytes), Bytes(block_bytes)}),
                 ValueError);
    ASSERT_NO_FATAL_FAILURE(recorded.expect_same());
  };
  const std::size_t pitch = recorded.store.layout().pitch();
  refuses({0, 1, 0}, pitch + 1, 0);
  refuses({0, 2, 0}, pitch, 0);
  refuses({5, 9, 0}, 4 * pitch, 0);
  refuses({0, 1, 0}, pitch, 64);
}

TEST(Store, MoreThanTheMachineHasIsAMemoryError) {
  EXPECT_THROW(Store(mixed_layout(), std::uint64_t{1} << 40, 1, 0), MemoryError);
  EXPECT_THROW(Store(mixed_layout(), std::uint64_t{1} << 40, RowId::kMaxLanes, 0), MemoryError);
}

TEST(Store, ControlBlockSaysWhatTheStoreIs) {
  const Store store(mixed_layout(), 3, 2, 9);
  const ControlBlock& control = store.lanes().control();
  EXPECT_EQ(control.lane_capacity, 3u);
  EXPECT_EQ(control.lane_slots, 3u);
  EXPECT_EQ(control.num_lanes, 2u);
  EXPECT_EQ(control.pitch, store.layout().pitch());
  EXPECT_EQ(control.seed, 9u);
  EXPECT_EQ(control.draws, 0u);
}

}  // namespace
}  // namespace velora
