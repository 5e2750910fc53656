#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/device/store.h"
#include "core/values/errors.h"
#include "emulated_runtime.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::Batch;
using testing::Bytes;
using testing::EmulatedRuntime;
using testing::kStream;
using testing::mixed_layout;
using testing::QueuedBatch;
using testing::RowSet;
using testing::StorePair;
using testing::tiny_layout;
using testing::transition_layout;
using testing::wide_layout;

TEST(DeviceStore, SamplesAreThoseOfTheStoreAsTheRingFillsAndWraps) {
  StorePair stores(7);
  std::mt19937_64 random(2);
  for (int i = 0; i < 30; ++i) {
    stores.push();
    EXPECT_TRUE(stores.sample_is_same(1 + random() % stores.size()));
  }
}

TEST(DeviceStore, SamplesOfEverySizeAreThoseOfTheStore) {
  StorePair stores(24);
  stores.push_many(40);
  for (std::uint64_t count = 1; count <= 24; ++count) EXPECT_TRUE(stores.sample_is_same(count));
}

TEST(DeviceStore, DrawsOfAllRowsAreThoseOfTheStore) {
  for (const std::uint64_t size : {200u, 1024u, 1025u}) {  // the last by the whole grid
    StorePair stores(size, tiny_layout());
    stores.push_many(static_cast<int>(size) + 3);
    EXPECT_TRUE(stores.sample_is_same(size));
  }
}

TEST(DeviceStore, LargeDrawsAreThoseOfTheStore) {
  StorePair stores(5000);
  stores.push_many(6000);
  for (const std::uint64_t count : {1024u, 1025u, 3000u, 1500u}) {
    EXPECT_TRUE(stores.sample_is_same(count));
  }
}

TEST(DeviceStore, LayoutsOfOneByteAndOfManyFieldsAreCopied) {
  for (const std::size_t fields : {1u, 47u, 48u, 38u, 39u, 49u, 130u}) {
    StorePair stores(9, fields == 1 ? tiny_layout() : wide_layout(fields));
    for (int i = 0; i < 12; ++i) {
      stores.push();
      EXPECT_TRUE(stores.sample_is_same(1));
    }
    EXPECT_TRUE(stores.sample_is_same(9));
  }
}

TEST(DeviceStore, RowsLargerThanTheWriteBufferAndTheGridAreCopied) {
  StorePair stores(
      4,
      RowLayout(
          {{.name = "image", .role = Role::kState, .dtype = DType::kUInt8, .shape = {3, 84, 84}}}),
      64);
  stores.push_many(7);
  EXPECT_TRUE(stores.sample_is_same(4));
}

TEST(DeviceStore, TakeGivesConsecutiveRows) {
  StorePair stores(8);
  stores.push_many(13);
  for (std::uint64_t start = 0; start < 8; ++start) {
    for (std::uint64_t count = 1; count <= 8 - start; ++count) {
      EXPECT_TRUE(stores.take_is_same(start, count));
    }
  }
}

TEST(DeviceStore, WriteBufferSmallerThanWhatIsPushedBetweenSamplesLosesNothing) {
  for (const std::size_t half_bytes : {1u, 700u, 3000u}) {
    StorePair stores(50, mixed_layout(), half_bytes);
    for (const int pushes : {1, 30, 49, 50, 51, 200}) {
      stores.push_many(pushes);
      EXPECT_TRUE(stores.rows_are_same());
      EXPECT_TRUE(stores.sample_is_same(stores.size() / 2 + 1));
    }
  }
}

TEST(DeviceStore, PushesRunAheadOfTheDevice) {
  // Nothing waits for the samples, so most copies are still to be made when rows are written.
  StorePair stores(6, mixed_layout(), 2000);
  std::vector<QueuedBatch> batches;
  for (int step = 0; step < 60; ++step) {
    stores.push();
    if (stores.size() >= 3) batches.push_back(stores.queue_sample(3));
  }
  stores.runtime.synchronize(kStream);
  for (const QueuedBatch& batch : batches) EXPECT_TRUE(batch.is_as_expected());
}

TEST(DeviceStore, WritesOnOneStreamLeaveTheReadsOfAnotherAlone) {
  char names[2];
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    StorePair stores(4, mixed_layout(), 2000, 1, seed);
    stores.push_many(4);
    std::vector<QueuedBatch> batches;
    for (int step = 0; step < 20; ++step) {
      batches.push_back(stores.queue_sample(4, &names[0]));
      stores.push_many(4);
      stores.device.flush(&names[1]);
    }
    stores.runtime.synchronize_all();
    for (const QueuedBatch& batch : batches) EXPECT_TRUE(batch.is_as_expected());
  }
}

TEST(DeviceStore, CapacityOfOneHoldsTheNewestRow) {
  StorePair stores(1);
  for (const int pushes : {1, 1, 2, 50}) {
    stores.push_many(pushes);
    EXPECT_TRUE(stores.sample_is_same(1));
    EXPECT_TRUE(stores.rows_are_same());
  }
}

TEST(DeviceStore, ClearedRowsAreNeitherDrawnNorSent) {
  StorePair stores(8);
  stores.push_many(5);
  stores.clear();
  EXPECT_EQ(stores.device.view().size(), 0u);
  stores.device.flush(kStream);
  for (int i = 0; i < 10; ++i) {
    stores.push();
    EXPECT_TRUE(stores.sample_is_same(stores.size()));
  }
  stores.clear();
  EXPECT_THROW(stores.device.sample(1, {}, kStream), ValueError);
}

TEST(DeviceStore, SamplesOfSeveralLanesAreThoseOfTheStore) {
  for (const std::uint32_t num_lanes : {2u, 3u, 17u, 40u}) {
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      StorePair stores(5, transition_layout(), 1500, num_lanes, seed);
      std::mt19937_64 random(seed);
      for (int step = 0; step < 14; ++step) {
        if (seed == 0) {
          stores.append_in_turn(1);
        } else {
          stores.append_anywhere(1 + random() % (2 * num_lanes));
        }
        EXPECT_TRUE(stores.sample_is_same(1 + random() % stores.size()));
        EXPECT_TRUE(stores.sample_is_same(stores.size()));
        if (random() % 8 == 0) stores.clear();
      }
      EXPECT_TRUE(stores.rows_are_same());
    }
  }
}

TEST(DeviceStore, EpisodesEndedFromOutsideAreThoseOfTheStore) {
  for (const std::size_t half_bytes : {std::size_t{600}, std::size_t{4096}}) {
    StorePair stores(5, transition_layout(), half_bytes, 3);
    std::mt19937_64 random(half_bytes);
    for (int step = 0; step < 40; ++step) {
      stores.append_anywhere(random() % 4 + 1);
      if (random() % 2 == 0) stores.sample_is_same(1);  // so that rows are there, or on their way
      const auto lane = static_cast<std::uint32_t>(random() % 3);
      stores.host.end_episode(lane);
      stores.device.end_episode(lane, kStream);
      EXPECT_TRUE(stores.sample_is_same(stores.size(), kStream, 3));
      EXPECT_TRUE(stores.rows_are_same());
    }
  }
}

TEST(DeviceStore, OneRowOfManyLanesIsFound) {
  StorePair stores(2, tiny_layout(), 4096, 5000);
  stores.push(4999);
  EXPECT_TRUE(stores.sample_is_same(1));
  stores.append_anywhere(300);
  EXPECT_TRUE(stores.sample_is_same(200));
}

TEST(DeviceStore, StepsSumUpAsThoseOfTheStore) {
  for (const std::uint32_t num_lanes : {1u, 3u}) {
    for (const std::uint32_t n_step : {2u, 3u, 5u, 20u}) {
      StorePair stores(9, transition_layout(), 1500, num_lanes, n_step);
      std::mt19937_64 random(n_step);
      for (int step = 0; step < 12; ++step) {
        stores.append_anywhere(1 + random() % 5);
        EXPECT_TRUE(stores.sample_is_same(1 + random() % stores.size(), kStream, n_step));
        EXPECT_TRUE(stores.sample_is_same(stores.size(), kStream, n_step));
      }
    }
  }
}

TEST(DeviceStore, StepsOfLargeDrawsSumUpAsThoseOfTheStore) {
  StorePair stores(900, transition_layout(), 1u << 16, 3);
  stores.append_anywhere(3000);
  for (const std::uint64_t count : {1024u, 1025u, 2500u}) {
    EXPECT_TRUE(stores.sample_is_same(count, kStream, 4));
  }
}

TEST(DeviceStore, TakeGivesAnyPartInTimeOrder) {
  for (const std::size_t fields : {0u, 60u}) {
    StorePair even(4, fields == 0 ? mixed_layout() : wide_layout(fields), 1500, 3);
    even.append_in_turn(6);
    StorePair uneven(4, fields == 0 ? mixed_layout() : wide_layout(fields), 1500, 3);
    for (const std::uint32_t lane : {0u, 0u, 0u, 0u, 0u, 0u, 2u, 2u, 1u}) uneven.push(lane);
    for (StorePair* stores : {&even, &uneven}) {
      for (std::uint64_t start = 0; start < stores->size(); ++start) {
        for (std::uint64_t count = 1; count <= stores->size() - start; ++count) {
          EXPECT_TRUE(stores->take_is_same(start, count));
        }
      }
    }
  }
}

TEST(DeviceStore, TakeIsOneLaunch) {
  StorePair stores(4, mixed_layout(), 4096, 3);
  const auto launches = [&] {
    const int before = stores.runtime.counts().launches;
    stores.device.flush(kStream);
    EXPECT_TRUE(stores.take_is_same(1, 4));
    return stores.runtime.counts().launches - before;
  };
  stores.append_in_turn(2);
  EXPECT_EQ(launches(), 2);
  stores.push(1);
  EXPECT_EQ(launches(), 2) << "of uneven lanes";
}

TEST(DeviceStore, LanesAreApart) {
  StorePair stores(5, mixed_layout(), 1500, 3);
  std::mt19937_64 random(3);
  for (int i = 0; i < 60; ++i) {
    stores.push(static_cast<std::uint32_t>(random() % 3));
    if (i % 7 != 6) continue;
    EXPECT_TRUE(stores.sample_is_same(stores.size()));
    EXPECT_TRUE(stores.rows_are_same());
  }
}

TEST(DeviceStore, SeedBeginsTheDrawsAgain) {
  StorePair stores(8, mixed_layout(), 1500, 3);
  const auto set_seed = [&](std::uint64_t seed) {
    stores.host.set_seed(seed);
    stores.device.set_seed(seed, kStream);
  };
  set_seed(3);  // before anything was sent
  stores.append_in_turn(9);
  EXPECT_TRUE(stores.sample_is_same(5));
  set_seed(4);
  stores.append_in_turn(1);
  EXPECT_TRUE(stores.sample_is_same(5));
  stores.append_columns(2);
  set_seed(4);
  EXPECT_TRUE(stores.sample_is_same(5));
  EXPECT_TRUE(stores.sample_is_same(5));
  EXPECT_TRUE(stores.rows_are_same());
}

TEST(DeviceStore, RestoreGivesTheSameRowsAndDraws) {
  for (const std::size_t pushes : {0u, 3u, 8u, 21u, 50u}) {
    StorePair stores(8, mixed_layout(), 4096, 2);
    if (pushes > 0) stores.append_anywhere(pushes);
    const auto [rows, on_device] = stores.live_rows();
    StorePair others(8, mixed_layout(), 900, 2);
    others.append_anywhere(20);
    others.host.import_rows({stores.host.lanes().save(), rows, {}});
    others.device.import_rows({stores.device.lanes().save(), on_device, {}}, kStream);
    others.host.lanes().set_draws(0);
    EXPECT_TRUE(others.rows_are_same());
    EXPECT_EQ(others.live_rows().second, on_device);
    if (pushes > 1) {
      EXPECT_TRUE(others.sample_is_same(2));
    }
    others.append_anywhere(9);
    EXPECT_TRUE(others.sample_is_same(5, kStream, 3));
    EXPECT_TRUE(others.rows_are_same());
  }
}

TEST(DeviceStore, RestoreRefusesWhatTheStoreRefuses) {
  StorePair stores(3);
  stores.push_many(2);
  const std::size_t pitch = stores.device.layout().pitch();
  const auto refuses = [&](SavedLane lane, std::size_t row_bytes) {
    EXPECT_THROW(stores.device.import_rows({{&lane, 1}, Bytes(row_bytes), {}}, kStream),
                 ValueError);
    EXPECT_TRUE(stores.rows_are_same());
  };
  refuses({0, 1, 0}, pitch + 1);
  refuses({0, 3, 0}, pitch);
  refuses({5, 9, 0}, 4 * pitch);
}

TEST(DeviceStore, FlushIsOneLaunchThatBringsWhatIsNew) {
  StorePair stores(8, mixed_layout(), 1u << 16, 40);
  const auto pieces = [&] {
    const int writes = stores.runtime.counts().writes;
    const int before = stores.runtime.counts().pieces;
    stores.device.flush(kStream);
    const int brought = stores.runtime.counts().pieces - before;
    EXPECT_EQ(stores.runtime.counts().writes - writes, brought > 0 ? 1 : 0);
    return brought;
  };
  EXPECT_GT(pieces(), 0) << "all that there is at the beginning";
  EXPECT_EQ(pieces(), 0);
  constexpr int kTree = 3;  // 40 sizes, 3 sums of 16, one of all
  stores.push(7);
  EXPECT_EQ(pieces(), 1 + 1 + kTree + 1) << "the row, its lane, the largest size";
  for (int i = 0; i < 5; ++i) stores.push(7);
  EXPECT_EQ(pieces(), 5 + 1 + kTree + 1);
  for (int i = 0; i < 20; ++i) stores.push(7);
  EXPECT_EQ(pieces(), 8 + 1 + kTree + 1) << "rows that were pushed out stay behind";
  stores.push(6);
  stores.push(20);
  EXPECT_EQ(pieces(), 2 + 2 + (2 + 2 + 1) + 1) << "a sum that two lanes share comes once";
}

TEST(DeviceStore, OneSampleIsOneLaunchAndNoWait) {
  StorePair stores(3000, mixed_layout(), std::size_t{1} << 20);
  stores.push_many(3000);
  stores.device.flush(kStream);
  const DeviceMemory memory(stores.runtime, Batch::nbytes(stores.host.layout(), 2000), "batch");
  for (const std::uint64_t count : {1u, 100u, 2000u}) {
    const int before = stores.runtime.counts().launches;
    stores.device.sample(count, Batch(stores.host.layout(), count, memory.data()).target(),
                         kStream);
    EXPECT_EQ(stores.runtime.counts().launches, before + 1);
  }
  EXPECT_EQ(stores.runtime.counts().host_waits, 0);
  EXPECT_EQ(stores.runtime.counts().stream_waits, 0);
  stores.runtime.synchronize(kStream);
}

TEST(DeviceStore, OperationsOnDifferentStreamsKeepTheirOrder) {
  char names[3];
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    StorePair stores(6, mixed_layout(), 1200);
    std::mt19937_64 random(seed);
    for (int i = 0; i < 40; ++i) {
      stores.push(0, &names[random() % 3]);
      if (random() % 2 == 0) stores.device.flush(&names[random() % 3]);
      EXPECT_TRUE(stores.sample_is_same(1 + random() % stores.size(), &names[random() % 3]));
    }
    EXPECT_GT(stores.runtime.counts().stream_waits, 0);
    stores.runtime.synchronize_all();
  }
}

TEST(DeviceStore, MoreThanThereIsIsAValueError) {
  StorePair stores(8);
  stores.push_many(3);
  EXPECT_THROW(stores.device.sample(4, {}, kStream), ValueError);
  EXPECT_TRUE(stores.sample_is_same(3));
}

TEST(DeviceStore, SampleAfterALaunchThatFailedIsRight) {
  StorePair stores(8);
  stores.push_many(5);
  const DeviceMemory memory(stores.runtime, Batch::nbytes(stores.host.layout(), 5), "batch");
  const Batch batch(stores.host.layout(), 5, memory.data());
  stores.runtime.fail_next_launch();
  EXPECT_THROW(stores.device.sample(5, batch.target(), kStream), DeviceError);
  EXPECT_TRUE(stores.sample_is_same(5));
}

TEST(DeviceStore, RowsWhoseLaunchFailedAreSentWithTheNext) {
  StorePair stores(8);
  stores.push_many(5);
  stores.runtime.fail_next_launch();
  EXPECT_THROW(stores.device.flush(kStream), DeviceError);
  stores.push_many(1);
  EXPECT_TRUE(stores.sample_is_same(6));
  EXPECT_TRUE(stores.rows_are_same());
}

TEST(DeviceStore, RowsThatDoNotFitAreAMemoryErrorThatLeavesNothing) {
  EmulatedRuntime runtime;
  const auto make = [&](std::uint64_t capacity, StorageKind place) {
    DeviceStore(mixed_layout(), capacity, 1, 0, runtime.device(), place, kStream);
  };
  runtime.limit_device_memory(1000);
  EXPECT_THROW(make(100, StorageKind::kDevice), MemoryError);
  EXPECT_THROW(make(0, StorageKind::kDevice), ValueError);
  EXPECT_EQ(runtime.counts().allocations, 0u);
  make(100, StorageKind::kPinned);
  runtime.limit_pinned_memory(1000);
  EXPECT_THROW(make(100, StorageKind::kPinned), MemoryError);
  EXPECT_EQ(runtime.counts().allocations, 0u);
}

TEST(DeviceStore, DestructorWaitsAndGivesEverythingBack) {
  EmulatedRuntime runtime;
  {
    DeviceStore store(mixed_layout(), 2000, 1, 0, runtime.device(), StorageKind::kDevice, kStream);
    const RowSet rows(store.layout(), 2000);
    store.append({.lanes = nullptr, .num_lanes = 1}, rows.source(), rows.size(), kStream);
    store.flush(kStream);
  }
  EXPECT_EQ(runtime.counts().allocations, 0u);
}

TEST(DeviceStore, PinnedRowsGiveTheBatchesOfTheStore) {
  StorePair stores(9, transition_layout(), 1500, 3, 0, StorageKind::kPinned);
  for (int step = 0; step < 12; ++step) {
    stores.append_anywhere(5);
    EXPECT_TRUE(stores.sample_is_same(stores.size(), kStream, 3));
  }
  EXPECT_TRUE(stores.rows_are_same());
}

TEST(DeviceStore, SaveOfPinnedRowsWaitsForWhatWasQueuedForThem) {
  StorePair stores(9, mixed_layout(), 1500, 2, 0, StorageKind::kPinned);
  for (int i = 0; i < 5; ++i) {
    stores.append_in_turn(3);
    stores.append_columns(2);
    stores.push(1);
    EXPECT_TRUE(stores.rows_are_same());
  }
}

}  // namespace
}  // namespace velora
