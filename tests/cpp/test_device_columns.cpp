#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>

#include "core/values/errors.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::kStream;
using testing::mixed_layout;
using testing::QueuedBatch;
using testing::StorePair;
using testing::tiny_layout;
using testing::transition_layout;
using testing::wide_layout;

bool anywhere(std::size_t) { return true; }

TEST(DeviceColumns, AppendedToAllLanesAreThoseOfTheStore) {
  for (const std::uint32_t num_lanes : {1u, 2u, 15u, 16u, 17u, 40u}) {
    for (const std::uint64_t steps : {1u, 2u, 5u, 6u, 13u}) {
      StorePair stores(5, transition_layout(), 1500, num_lanes, steps);
      for (int turn = 0; turn < 5; ++turn) {
        stores.append_columns(steps);
        EXPECT_EQ(stores.device.size(), stores.size());
        EXPECT_TRUE(stores.sample_is_same(stores.size(), kStream, 3));
        EXPECT_TRUE(stores.rows_are_same());
      }
    }
  }
}

TEST(DeviceColumns, AppendedWithoutAnybodyLookingAreThoseOfTheStore) {
  for (const std::uint32_t num_lanes : {1u, 3u, 33u}) {
    StorePair stores(7, transition_layout(), 4096, num_lanes);
    for (int turn = 0; turn < 9; ++turn) stores.append_columns(1);
    EXPECT_TRUE(stores.sample_is_same(stores.size(), kStream, 2));
    EXPECT_TRUE(stores.take_is_same(0, stores.size()));
    EXPECT_TRUE(stores.rows_are_same());
  }
}

TEST(DeviceColumns, ManyStepsAreSharedByGroupsOfThreads) {
  for (const std::uint64_t capacity : {700u, 5000u}) {
    StorePair stores(capacity, transition_layout(), 1u << 16, 2);
    for (const std::uint64_t steps : {3000u, 1u, 1500u}) {
      stores.append_columns(steps);
      EXPECT_TRUE(stores.sample_is_same(300, kStream, 3));
      EXPECT_TRUE(stores.rows_are_same());
    }
  }
}

TEST(DeviceColumns, SomeOfWhichTheHostHasAreThoseOfTheStore) {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    StorePair stores(6, transition_layout(), seed < 3 ? 700 : 1u << 16, 5, seed);
    std::mt19937_64 random(seed);
    for (int turn = 0; turn < 8; ++turn) {
      const std::uint64_t there = random();
      stores.append_columns({0, 5}, 1 + random() % 9,
                            [&](std::size_t field) { return (there >> field & 1) != 0; });
      EXPECT_TRUE(stores.sample_is_same(stores.size(), kStream, 4));
    }
    EXPECT_TRUE(stores.rows_are_same());
  }
}

TEST(DeviceColumns, LayoutsOfOneByteAndOfManyFieldsAreStored) {
  for (const std::size_t fields : {1u, 48u, 38u, 39u, 49u, 130u}) {
    StorePair stores(9, fields == 1 ? tiny_layout() : wide_layout(fields), 900, 3);
    for (int turn = 0; turn < 4; ++turn) {
      stores.append_columns({0, 3}, 3, [](std::size_t field) { return field % 2 == 0; });
      EXPECT_TRUE(stores.sample_is_same(stores.size()));
    }
    EXPECT_TRUE(stores.rows_are_same());
  }
}

TEST(DeviceColumns, RowsFromBothSidesMixInAnyOrder) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const std::uint32_t num_lanes = seed % 3 == 0 ? 1 : 5;
    StorePair stores(6, transition_layout(), 1500, num_lanes, seed);
    std::mt19937_64 random(seed);
    for (int turn = 0; turn < 25; ++turn) {
      const auto lane = static_cast<std::uint32_t>(random() % num_lanes);
      switch (random() % 6) {
        case 0:
          stores.append_anywhere(1 + random() % 9);
          break;
        case 1:
          stores.append_columns(1 + random() % 8);
          break;
        case 2:
          stores.append_columns({lane, 1}, 1 + random() % 3, anywhere);
          break;
        case 3:
          stores.host.end_episode(lane);
          stores.device.end_episode(lane, kStream);
          break;
        case 4:
          if (random() % 3 == 0) stores.clear();
          break;
        default:
          stores.append_in_turn(1);
      }
      EXPECT_EQ(stores.device.size(), stores.size());
      if (stores.size() > 0 && random() % 2 == 0) {
        EXPECT_TRUE(stores.sample_is_same(1 + random() % stores.size(), kStream, 3));
        EXPECT_TRUE(stores.take_is_same(0, stores.size()));
      }
      if (random() % 4 == 0) {
        EXPECT_TRUE(stores.rows_are_same());
      }
    }
    EXPECT_TRUE(stores.rows_are_same());
  }
}

TEST(DeviceColumns, AppendIsOneLaunchAndNoWait) {
  StorePair stores(50, transition_layout(), 1u << 20, 300);
  stores.device.flush(kStream);
  const int before = stores.runtime.counts().launches;
  for (int turn = 0; turn < 60; ++turn) stores.append_columns(1);
  EXPECT_EQ(stores.runtime.counts().launches, before + 60);
  EXPECT_EQ(stores.device.size(), stores.size());
  EXPECT_EQ(stores.runtime.counts().host_waits, 0);
  EXPECT_TRUE(stores.sample_is_same(64));
  EXPECT_TRUE(stores.rows_are_same());
}

TEST(DeviceColumns, ClearNeverWaits) {
  StorePair stores(4, transition_layout(), 1u << 16, 20);
  for (int turn = 0; turn < 6; ++turn) {
    stores.append_columns(3);
    stores.clear();
    EXPECT_EQ(stores.device.size(), 0u);
  }
  EXPECT_EQ(stores.runtime.counts().host_waits, 0);
  stores.append_columns(2);
  EXPECT_TRUE(stores.sample_is_same(40, kStream, 2));
  EXPECT_TRUE(stores.rows_are_same());
}

TEST(DeviceColumns, OnOtherStreamsKeepTheirOrder) {
  char names[3];
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    StorePair stores(4, transition_layout(), 2000, 3, seed);
    std::mt19937_64 random(seed);
    std::vector<QueuedBatch> batches;
    for (int step = 0; step < 20; ++step) {
      stores.append_columns(
          {0, 3}, 2, [](std::size_t field) { return field != 2; }, &names[random() % 3]);
      batches.push_back(stores.queue_sample(5, &names[random() % 3], 2));
    }
    stores.runtime.synchronize_all();
    for (const QueuedBatch& batch : batches) EXPECT_TRUE(batch.is_as_expected());
  }
}

}  // namespace
}  // namespace velora
