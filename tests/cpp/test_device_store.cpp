#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "core/device_store.h"
#include "core/draw.h"
#include "core/errors.h"
#include "core/gather.h"
#include "core/store.h"
#include "emulated_runtime.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::Batch;
using testing::EmulatedRuntime;
using testing::fill_row;
using testing::mixed_layout;
using testing::tiny_layout;
using testing::wide_layout;

using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kSeed = 0x9876543210ABCDEF;
void* const kStream = nullptr;

/// A batch that the device will have written when it comes to it.
struct QueuedBatch {
  Bytes expected;
  DeviceMemory memory;

  bool is_as_expected() const {
    return std::memcmp(memory.get(), expected.data(), expected.size()) == 0;
  }
};

/// A Store and a DeviceStore that are given the same rows and the same draws.
class StorePair {
 public:
  explicit StorePair(std::uint64_t capacity, RowLayout layout = mixed_layout(),
                     std::size_t half_bytes = 4096, std::uint32_t num_lanes = 1,
                     std::uint64_t runtime_seed = 0)
      : runtime(runtime_seed),
        host(layout, capacity, num_lanes, kSeed),
        device(std::move(layout), capacity, num_lanes, kSeed, runtime, half_bytes) {}

  void push(std::uint32_t lane = 0, void* stream = kStream) {
    Bytes row(host.layout().pitch());
    fill_row(random_, host.layout(), row.data());
    std::memcpy(host.next_row(lane), row.data(), row.size());
    host.commit(lane);
    std::memcpy(device.next_row(stream), row.data(), row.size());
    device.commit(lane);
  }
  void push_many(int count) {
    for (int i = 0; i < count; ++i) push();
  }

  QueuedBatch queue_sample(std::uint64_t count, void* stream, std::uint32_t lane = 0) {
    const RowsView view = host.view();
    std::vector<std::uint64_t> drawn(count);
    DrawScratch scratch;
    draw_distinct(host.lanes().next_draw(), view.size(lane), drawn, scratch);
    std::vector<RowId> ids;
    for (const std::uint64_t place : drawn) ids.push_back({lane, view.begin(lane) + place});
    QueuedBatch batch = expect(ids);
    device.sample(lane, count, batch_of(count, batch.memory.data()).target(), stream);
    host.lanes().count_draw();
    device.lanes().count_draw();
    return batch;
  }
  bool sample_is_same(std::uint64_t count, void* stream = kStream, std::uint32_t lane = 0) {
    const QueuedBatch batch = queue_sample(count, stream, lane);
    runtime.synchronize(stream);
    return batch.is_as_expected();
  }

  bool take_is_same(std::uint64_t start, std::uint64_t count) {
    const RowId first = {0, host.view().begin(0) + start};
    std::vector<RowId> ids;
    for (std::uint64_t i = 0; i < count; ++i) ids.push_back({0, first.serial + i});
    const QueuedBatch batch = expect(ids);
    device.take(first, count, batch_of(count, batch.memory.data()).target(), kStream);
    runtime.synchronize(kStream);
    return batch.is_as_expected();
  }

  /// The live rows, first as the host has them and then as the device has them.
  std::pair<Bytes, Bytes> live_rows(std::uint32_t lane = 0) {
    const std::size_t bytes = host.view().size(lane) * host.layout().pitch();
    std::pair<Bytes, Bytes> rows{Bytes(bytes), Bytes(bytes)};
    host.copy_rows(lane, rows.first);
    device.copy_rows(lane, rows.second, kStream);
    return rows;
  }

  bool rows_are_same(std::uint32_t lane = 0) {
    const auto [on_host, on_device] = live_rows(lane);
    return on_host == on_device;
  }

  EmulatedRuntime runtime;
  Store host;
  DeviceStore device;

 private:
  Batch batch_of(std::size_t count, std::byte* memory) const {
    return Batch(host.layout(), count, memory);
  }

  QueuedBatch expect(const std::vector<RowId>& ids) {
    const std::size_t bytes = Batch::nbytes(host.layout(), ids.size());
    QueuedBatch batch = {Bytes(bytes), {runtime, runtime.allocate_device(bytes, "batch")}};
    std::memset(batch.memory.get(), 0, bytes);  // what lies between the columns
    gather(host.view(), ids, batch_of(ids.size(), batch.expected.data()).target());
    return batch;
  }

  std::mt19937_64 random_{1};
};

TEST(DeviceStore, SamplesAreThoseOfTheStoreAsTheRingFillsAndWraps) {
  StorePair stores(7);
  std::mt19937_64 random(2);
  for (int i = 0; i < 30; ++i) {
    stores.push();
    EXPECT_TRUE(stores.sample_is_same(1 + random() % stores.host.view().size(0)));
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
  for (const std::size_t fields : {1u, 47u, 48u, 49u, 130u}) {
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
      EXPECT_TRUE(stores.sample_is_same(stores.host.view().size(0) / 2 + 1));
    }
  }
}

TEST(DeviceStore, PushesRunAheadOfTheDevice) {
  // Nothing waits for the samples, so most copies are still to be made when rows are written.
  StorePair stores(6, mixed_layout(), 2000);
  std::vector<QueuedBatch> batches;
  for (int step = 0; step < 60; ++step) {
    stores.push();
    if (stores.host.view().size(0) >= 3) batches.push_back(stores.queue_sample(3, kStream));
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
  stores.host.clear();
  stores.device.clear();
  EXPECT_EQ(stores.device.view().size(0), 0u);
  stores.device.flush(kStream);
  EXPECT_EQ(stores.runtime.counts().copies_to_device, 1) << "the lane states";
  for (int i = 0; i < 10; ++i) {
    stores.push();
    EXPECT_TRUE(stores.sample_is_same(stores.host.view().size(0)));
  }
  stores.host.clear();
  stores.device.clear();
  EXPECT_THROW(stores.device.sample(0, 1, {}, kStream), ValueError);
}

TEST(DeviceStore, SkippedSerialsStayAligned) {
  StorePair stores(5);
  stores.push_many(3);
  stores.host.skip(0, 9);
  stores.device.skip(0, 9);
  stores.push_many(4);
  EXPECT_TRUE(stores.rows_are_same());
  EXPECT_TRUE(stores.sample_is_same(4));
}

TEST(DeviceStore, LanesAreApart) {
  StorePair stores(5, mixed_layout(), 1500, 3);
  std::mt19937_64 random(3);
  for (int i = 0; i < 60; ++i) {
    stores.push(static_cast<std::uint32_t>(random() % 3));
    if (i % 7 != 6) continue;
    for (std::uint32_t lane = 0; lane < 3; ++lane) {
      const std::uint64_t size = stores.host.view().size(lane);
      if (size > 0) {
        EXPECT_TRUE(stores.sample_is_same(size, kStream, lane));
      }
      EXPECT_TRUE(stores.rows_are_same(lane));
    }
  }
}

TEST(DeviceStore, RestoreGivesTheSameRowsAndDraws) {
  for (const int pushes : {0, 3, 8, 21}) {
    StorePair stores(8);
    stores.push_many(pushes);
    const auto [rows, on_device] = stores.live_rows();
    StorePair others(8, mixed_layout(), 900);
    others.push_many(20);
    others.host.restore(0, stores.host.view().end(0), rows);
    others.device.restore(0, stores.device.view().end(0), on_device, kStream);
    EXPECT_TRUE(others.rows_are_same());
    EXPECT_EQ(others.live_rows().second, rows);
    if (pushes > 0) {
      EXPECT_TRUE(others.sample_is_same(2));
    }
  }
}

TEST(DeviceStore, RestoreOfOneLaneKeepsWhatWaitsInAnother) {
  StorePair stores(4, mixed_layout(), 4096, 2);
  for (int i = 0; i < 3; ++i) stores.push(1);
  stores.host.restore(0, 0, {});
  stores.device.restore(0, 0, {}, kStream);
  EXPECT_TRUE(stores.rows_are_same(1));
}

TEST(DeviceStore, RestoreRefusesWhatTheStoreRefuses) {
  StorePair stores(3);
  const std::size_t pitch = stores.device.layout().pitch();
  EXPECT_THROW(stores.device.restore(0, 3, Bytes(pitch + 1), kStream), ValueError);
  EXPECT_THROW(stores.device.restore(0, 9, Bytes(4 * pitch), kStream), ValueError);
}

TEST(DeviceStore, FlushIsOneCopyAndTwoWhereTheRingWraps) {
  StorePair stores(8);
  const auto copies = [&] {
    const int before = stores.runtime.counts().copies_to_device;
    stores.device.flush(kStream);
    return stores.runtime.counts().copies_to_device - before;
  };
  EXPECT_EQ(copies(), 1) << "the lane states";
  stores.push_many(6);
  EXPECT_EQ(copies(), 1 + 1);
  EXPECT_EQ(copies(), 0);
  stores.push_many(2);
  EXPECT_EQ(copies(), 1 + 1) << "up to the end";
  stores.push_many(6);
  EXPECT_EQ(copies(), 1 + 1) << "from the start";
  stores.push_many(4);
  EXPECT_EQ(copies(), 2 + 1) << "over the end";
  stores.push_many(29);
  EXPECT_EQ(copies(), 2 + 1) << "rows that were pushed out stay behind";
}

TEST(DeviceStore, OneSampleIsOneLaunchAndNoWait) {
  StorePair stores(3000, mixed_layout(), std::size_t{1} << 20);
  stores.push_many(3000);
  const DeviceMemory memory(
      stores.runtime,
      stores.runtime.allocate_device(Batch::nbytes(stores.host.layout(), 2000), "batch"));
  for (const std::uint64_t count : {1u, 100u, 2000u}) {
    const int before = stores.runtime.counts().launches;
    stores.device.sample(0, count, Batch(stores.host.layout(), count, memory.data()).target(),
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
      EXPECT_TRUE(
          stores.sample_is_same(1 + random() % stores.host.view().size(0), &names[random() % 3]));
    }
    EXPECT_GT(stores.runtime.counts().stream_waits, 0);
    stores.runtime.synchronize_all();
  }
}

TEST(DeviceStore, MoreThanThereIsIsAValueError) {
  StorePair stores(8);
  stores.push_many(3);
  EXPECT_THROW(stores.device.sample(0, 4, {}, kStream), ValueError);
  EXPECT_TRUE(stores.sample_is_same(3));
}

TEST(DeviceStore, SampleAfterALaunchThatFailedIsRight) {
  StorePair stores(8);
  stores.push_many(5);
  const DeviceMemory memory(stores.runtime, stores.runtime.allocate_device(
                                                Batch::nbytes(stores.host.layout(), 5), "batch"));
  const Batch batch(stores.host.layout(), 5, memory.data());
  stores.runtime.fail_next_launch();
  EXPECT_THROW(stores.device.sample(0, 5, batch.target(), kStream), DeviceError);
  EXPECT_TRUE(stores.sample_is_same(5));
}

TEST(DeviceStore, RowsThatDoNotFitOntoTheDeviceAreAMemoryErrorThatLeavesNothing) {
  EmulatedRuntime runtime;
  runtime.limit_device_memory(1000);
  EXPECT_THROW(DeviceStore(mixed_layout(), 100, 1, 0, runtime), MemoryError);
  EXPECT_THROW(DeviceStore(mixed_layout(), 0, 1, 0, runtime), ValueError);
  EXPECT_EQ(runtime.counts().allocations, 0u);
}

TEST(DeviceStore, DestructorWaitsAndGivesEverythingBack) {
  EmulatedRuntime runtime;
  {
    DeviceStore store(mixed_layout(), 2000, 1, 0, runtime);
    for (int i = 0; i < 2000; ++i) {
      std::memset(store.next_row(kStream), 0, store.layout().pitch());
      store.commit(0);
    }
    store.flush(kStream);
  }
  EXPECT_EQ(runtime.counts().allocations, 0u);
}

}  // namespace
}  // namespace velora
