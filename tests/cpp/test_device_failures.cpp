#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/values/errors.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::Bytes;
using testing::EmulatedRuntime;
using testing::kSeed;
using testing::kStream;
using testing::mixed_layout;
using testing::QueuedBatch;
using testing::RowSet;
using testing::StorePair;
using testing::transition_layout;

char capture_stream;
char other_stream;

TEST(DeviceFailures, ConstructingWhileTheStreamIsCapturedIsADeviceError) {
  EmulatedRuntime runtime;
  runtime.begin_capture(&capture_stream);
  EXPECT_THROW(DeviceStore(mixed_layout(), 8, 1, kSeed, runtime.device(), StorageKind::kDevice,
                           &capture_stream),
               DeviceError);
  EXPECT_TRUE(runtime.end_capture(&capture_stream).empty());
  EXPECT_EQ(runtime.counts().allocations, 0u);
}

/// Appends `count` rows, of which the device refuses what it takes to make room for them.
void append_refused(StorePair& stores, std::size_t count) {
  const RowSet rows(stores.host.layout(), count);
  stores.runtime.fail_next_launch();
  EXPECT_THROW(stores.device.append({nullptr, 1}, rows.source(), count, kStream), DeviceError);
}

TEST(DeviceFailures, AppendOfFewRowsThatFailsOnTheWayChangesNothing) {
  StorePair stores(100, mixed_layout(), 4096);
  int rows = 0;  // until half of the write buffer is nearly full
  while (stores.runtime.counts().launches == 0) {
    stores.push();
    ++rows;
  }
  stores.push_many(rows - 4);
  const std::uint64_t before = stores.device.size();
  append_refused(stores, 8);  // far less than half of it
  ASSERT_EQ(stores.device.size(), before);
  EXPECT_TRUE(stores.rows_are_same());
}

TEST(DeviceFailures, AppendWhoseLaunchFailsAfterACaptureIsSentWithTheNext) {
  StorePair stores(20);
  stores.push_many(9);
  QueuedBatch batch = stores.make_batch(3);
  stores.runtime.begin_capture(&capture_stream);
  stores.device.sample(3, stores.batch_of(3, batch.memory.data()).target(), &capture_stream);
  stores.runtime.end_capture(&capture_stream);
  stores.runtime.fail_next_launch();
  stores.push_many(2);
  EXPECT_TRUE(stores.sample_is_same(11));
  EXPECT_TRUE(stores.rows_are_same());
}

TEST(DeviceFailures, DrawsOfARestoredStoreAreThereForTheNextRunOfAGraph) {
  StorePair stores(20);
  stores.push_many(9);
  QueuedBatch batch = stores.make_batch(3);
  stores.runtime.begin_capture(&capture_stream);
  stores.device.sample(3, stores.batch_of(3, batch.memory.data()).target(), &capture_stream);
  const EmulatedRuntime::Graph graph = stores.runtime.end_capture(&capture_stream);

  const std::vector<SavedLane> lanes = stores.host.lanes().save();
  Bytes rows(stores.size() * stores.host.layout().pitch());
  testing::save_to(rows, stores.host);
  stores.host.import_rows({lanes, rows, {}});
  stores.host.lanes().set_draws(40);
  stores.device.import_rows({lanes, rows, {}, 40}, kStream);

  stores.runtime.run(graph, &other_stream);
  stores.runtime.synchronize_all();
  Bytes expected(batch.expected.size());
  BatchReader(stores.host).sample(3, stores.batch_of(3, expected.data()).target());
  EXPECT_EQ(std::memcmp(batch.memory.data(), expected.data(), expected.size()), 0);
  EXPECT_TRUE(stores.sample_is_same(5));  // and the run has counted its draw
}

}  // namespace
}  // namespace velora
