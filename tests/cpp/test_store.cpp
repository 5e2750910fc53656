#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/errors.h"
#include "core/store.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::fill_row;
using testing::mixed_layout;

using Bytes = std::vector<std::byte>;

/// Pushes a random row and returns it.
Bytes push(Store& store, std::uint32_t lane, std::mt19937_64& random) {
  Bytes row(store.layout().pitch());
  fill_row(random, store.layout(), row.data());
  std::memcpy(store.next_row(lane), row.data(), row.size());
  store.commit(lane);
  return row;
}

Bytes live_rows(const Store& store, std::uint32_t lane) {
  Bytes rows(store.view().size(lane) * store.layout().pitch());
  store.copy_rows(lane, rows);
  return rows;
}

Bytes joined(const std::vector<Bytes>& rows, std::size_t newest) {
  Bytes all;
  for (std::size_t i = rows.size() - newest; i < rows.size(); ++i) {
    all.insert(all.end(), rows[i].begin(), rows[i].end());
  }
  return all;
}

TEST(Store, NewestRowsOfEachLaneAreReadBackOldestFirst) {
  for (const std::uint64_t capacity : {1u, 2u, 5u}) {
    std::mt19937_64 random(capacity);
    Store store(mixed_layout(), capacity, 2, 0);
    std::vector<Bytes> pushed[2];
    for (std::size_t i = 0; i < 4 * capacity; ++i) {
      const auto lane = static_cast<std::uint32_t>(random() % 2);
      pushed[lane].push_back(push(store, lane, random));
      for (const std::uint32_t l : {0u, 1u}) {
        const std::size_t alive = std::min<std::size_t>(capacity, pushed[l].size());
        EXPECT_EQ(live_rows(store, l), joined(pushed[l], alive));
      }
    }
  }
}

TEST(Store, NextRowThatIsNotCommittedChangesNothing) {
  std::mt19937_64 random(1);
  Store store(mixed_layout(), 3, 1, 0);
  const Bytes row = push(store, 0, random);
  std::memset(store.next_row(0), 0xFF, store.layout().pitch());
  EXPECT_EQ(live_rows(store, 0), row);
}

TEST(Store, RestoreGivesTheSameRowsInTheSamePlaces) {
  for (const int pushes : {0, 2, 3, 8}) {
    std::mt19937_64 random(2);
    Store store(mixed_layout(), 3, 1, 0);
    for (int i = 0; i < pushes; ++i) push(store, 0, random);
    Store other(mixed_layout(), 3, 1, 0);
    push(other, 0, random);
    other.restore(0, store.view().end(0), live_rows(store, 0));
    EXPECT_EQ(live_rows(other, 0), live_rows(store, 0));
    EXPECT_EQ(other.view().begin(0), store.view().begin(0));
    EXPECT_EQ(other.lanes().next_place(0), store.lanes().next_place(0));
  }
}

TEST(Store, RestoreRefusesPartsOfRows) {
  Store store(mixed_layout(), 3, 1, 0);
  EXPECT_THROW(store.restore(0, 3, Bytes(store.layout().pitch() + 1)), ValueError);
  EXPECT_THROW(store.restore(0, 9, Bytes(4 * store.layout().pitch())), ValueError);
}

TEST(Store, MoreThanTheMachineHasIsAMemoryError) {
  EXPECT_THROW(Store(mixed_layout(), std::uint64_t{1} << 40, 1, 0), MemoryError);
  EXPECT_THROW(Store(mixed_layout(), std::uint64_t{1} << 40, RowId::kMaxLanes, 0), MemoryError);
}

TEST(Store, ControlBlockSaysWhatTheStoreIs) {
  const Store store(mixed_layout(), 3, 2, 9);
  const ControlBlock& control = store.lanes().control();
  EXPECT_EQ(control.lane_capacity, 3u);
  EXPECT_EQ(control.num_lanes, 2u);
  EXPECT_EQ(control.pitch, store.layout().pitch());
  EXPECT_EQ(control.seed, 9u);
  EXPECT_EQ(control.draws, 0u);
}

}  // namespace
}  // namespace velora
