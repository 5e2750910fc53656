#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>

#include "core/values/errors.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::Batch;
using testing::EmulatedRuntime;
using testing::kStream;
using testing::mixed_layout;
using testing::QueuedBatch;
using testing::StorePair;
using testing::transition_layout;
using testing::wide_layout;

char capture_stream;
char run_stream;

/// A captured sample of a pair of stores, which runs again and again.
class CapturedSample {
 public:
  CapturedSample(StorePair& stores, std::uint64_t count, std::uint32_t n_step = 1)
      : stores_(stores), n_step_(n_step), batch_(stores.make_batch(count)), count_(count) {
    stores.runtime.begin_capture(&capture_stream);
    stores.device.sample(count, stores.batch_of(count, batch_.memory.data(), n_step).target(),
                         &capture_stream);
    graph_ = stores.runtime.end_capture(&capture_stream);
  }

  void run(void* stream = &run_stream) { stores_.runtime.run(graph_, stream); }
  /// Whether one more run gives the batch that the host draws next.
  bool run_is_same(void* stream = &run_stream) {
    run(stream);
    stores_.runtime.synchronize(stream);
    testing::Bytes expected(batch_.expected.size());
    BatchReader(stores_.host)
        .sample(count_, stores_.batch_of(count_, expected.data(), n_step_).target());
    return std::memcmp(batch_.memory.data(), expected.data(), expected.size()) == 0;
  }
  const std::byte* memory() const { return batch_.memory.data(); }

 private:
  StorePair& stores_;
  std::uint32_t n_step_;
  QueuedBatch batch_;
  std::uint64_t count_;
  EmulatedRuntime::Graph graph_;
};

/// Both draw by that seed from now on.
void set_seed(StorePair& stores, std::uint64_t seed, void* stream = kStream) {
  stores.host.set_seed(seed);
  stores.device.set_seed(seed, stream);
}

TEST(DeviceCapture, RunsGoByTheSeedThatWasSetLast) {
  StorePair stores(20);
  stores.push_many(20);
  CapturedSample sample(stores, 5);
  EXPECT_TRUE(sample.run_is_same());
  set_seed(stores, 41);
  set_seed(stores, 42);
  EXPECT_TRUE(sample.run_is_same());
  EXPECT_TRUE(sample.run_is_same());
  EXPECT_TRUE(stores.sample_is_same(7));
  set_seed(stores, 42);
  stores.push_many(3);
  EXPECT_TRUE(sample.run_is_same());
}

TEST(DeviceCapture, SeedLeavesRowsThatOnlyTheDeviceHasCounted) {
  StorePair stores(20, mixed_layout(), 4096, 3);
  stores.append_in_turn(2);
  const CapturedSample captured(stores, 5);
  stores.append_columns(4);
  set_seed(stores, 41);
  EXPECT_TRUE(stores.take_is_same(0, 18));
  EXPECT_TRUE(stores.sample_is_same(18));
}

TEST(DeviceCapture, SeedMayBeSetWhileASampleIsCaptured) {
  StorePair stores(20);
  stores.push_many(20);
  const QueuedBatch batch = stores.make_batch(5);
  stores.runtime.begin_capture(&capture_stream);
  set_seed(stores, 43, &capture_stream);
  stores.device.sample(5, stores.batch_of(5, batch.memory.data()).target(), &capture_stream);
  const EmulatedRuntime::Graph graph = stores.runtime.end_capture(&capture_stream);
  BatchReader reader(stores.host);
  for (int run = 0; run < 3; ++run) {
    stores.runtime.run(graph, &run_stream);
    stores.runtime.synchronize(&run_stream);
    testing::Bytes expected(batch.expected.size());
    reader.sample(5, stores.batch_of(5, expected.data()).target());
    EXPECT_EQ(std::memcmp(batch.memory.data(), expected.data(), expected.size()), 0);
  }
}

TEST(DeviceCapture, EachRunDrawsAnew) {
  StorePair stores(20);
  stores.push_many(25);
  CapturedSample captured(stores, 7);
  for (int run = 0; run < 5; ++run) EXPECT_TRUE(captured.run_is_same());
}

TEST(DeviceCapture, RunsSeeWhatIsPushedBetweenThem) {
  for (const std::uint64_t count : {7u, 1100u}) {  // the latter by the whole grid
    StorePair stores(count, transition_layout(), 1u << 16, 3);
    stores.append_anywhere(count + 20);
    CapturedSample captured(stores, count, 3);
    std::mt19937_64 random(count);
    for (int run = 0; run < 12; ++run) {
      EXPECT_TRUE(captured.run_is_same());
      switch (random() % 3) {
        case 0:
          stores.append_anywhere(1 + random() % 9);
          break;
        case 1:
          stores.append_columns(1 + random() % 3);
          break;
        default:
          stores.append_in_turn(1);
      }
    }
  }
}

TEST(DeviceCapture, SamplesBetweenRunsGoOnWithTheDraws) {
  StorePair stores(20, mixed_layout(), 4096, 2);
  stores.append_anywhere(50);
  CapturedSample small(stores, 3);
  CapturedSample large(stores, 20);
  for (int run = 0; run < 4; ++run) {
    EXPECT_TRUE(small.run_is_same());
    EXPECT_TRUE(stores.sample_is_same(5));
    EXPECT_TRUE(large.run_is_same());
  }
  stores.device.settle(kStream);
  EXPECT_EQ(stores.device.lanes().control().draws, stores.host.lanes().control().draws);
}

TEST(DeviceCapture, ManyFieldsAreKeptForTheGraph) {
  StorePair stores(9, wide_layout(130), 900);
  stores.push_many(12);
  CapturedSample captured(stores, 5);
  for (int run = 0; run < 4; ++run) {
    EXPECT_TRUE(captured.run_is_same());
    stores.push_many(5);
  }
}

TEST(DeviceCapture, RunsOnAnyStreamKeepTheirOrder) {
  char names[3];
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    StorePair stores(8, transition_layout(), 1500, 2, seed);
    stores.append_in_turn(4);
    CapturedSample first(stores, 4, 2);
    CapturedSample second(stores, 6);
    std::mt19937_64 random(seed);
    for (int step = 0; step < 15; ++step) {
      stores.push(static_cast<std::uint32_t>(random() % 2), &names[random() % 3]);
      EXPECT_TRUE(first.run_is_same(&names[random() % 3]));
      stores.append_columns({0, 2}, 1, [](std::size_t) { return true; }, &names[random() % 3]);
      EXPECT_TRUE(stores.sample_is_same(3, &names[random() % 3]));
      EXPECT_TRUE(second.run_is_same(&names[random() % 3]));
    }
  }
}

TEST(DeviceCapture, ALaterWriteWaitsForARunOnAnotherStream) {
  char names[2];
  StorePair stores(4, mixed_layout(), 4096);
  stores.push_many(4);
  CapturedSample captured(stores, 4);
  captured.run(&names[0]);  // not waited for
  testing::Bytes expected(testing::Batch::nbytes(stores.host.layout(), 4));
  BatchReader(stores.host).sample(4, stores.batch_of(4, expected.data()).target());
  stores.push_many(4);
  stores.device.flush(&names[1]);
  stores.runtime.synchronize(&names[1]);
  stores.runtime.synchronize_all();
  EXPECT_EQ(std::memcmp(captured.memory(), expected.data(), expected.size()), 0);
}

/// Of a runtime whose graphs would wait for themselves.
TEST(DeviceCapture, RunsThatDoNotWaitForEachOtherShareAStreamAndKeepTheirOrder) {
  char names[3];
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    StorePair stores(8, transition_layout(), 1500, 2, seed);
    stores.runtime.graphs_wait_for_themselves();
    stores.append_in_turn(4);
    CapturedSample first(stores, 4, 2);
    CapturedSample second(stores, 6);
    std::mt19937_64 random(seed);
    for (int step = 0; step < 15; ++step) {
      stores.push(static_cast<std::uint32_t>(random() % 2), &names[random() % 3]);
      first.run();  // not waited for
      QueuedBatch between = stores.make_batch(4);
      BatchReader(stores.host).sample(4, stores.batch_of(4, between.expected.data(), 2).target());
      EXPECT_TRUE(second.run_is_same());
      EXPECT_EQ(std::memcmp(first.memory(), between.expected.data(), between.expected.size()), 0);
      EXPECT_TRUE(stores.sample_is_same(3, &names[random() % 3]));
    }
  }
}

TEST(DeviceCapture, OfTwoSamplesInOneGraphTheSecondDrawsAfterTheFirst) {
  for (const bool waits : {true, false}) {
    StorePair stores(20);
    if (!waits) stores.runtime.graphs_wait_for_themselves();
    stores.push_many(25);
    QueuedBatch batches[2] = {stores.make_batch(5), stores.make_batch(7)};
    const std::uint64_t counts[2] = {5, 7};
    stores.runtime.begin_capture(&capture_stream);
    for (int i = 0; i < 2; ++i) {
      stores.device.sample(counts[i], stores.batch_of(counts[i], batches[i].memory.data()).target(),
                           &capture_stream);
    }
    const EmulatedRuntime::Graph graph = stores.runtime.end_capture(&capture_stream);
    BatchReader reader(stores.host);
    for (int run = 0; run < 4; ++run) {
      stores.push_many(1);
      stores.runtime.run(graph, &run_stream);
      stores.runtime.synchronize(&run_stream);
      for (int i = 0; i < 2; ++i) {
        reader.sample(counts[i], stores.batch_of(counts[i], batches[i].expected.data()).target());
        EXPECT_TRUE(batches[i].is_as_expected()) << waits << run << i;
      }
    }
  }
}

TEST(DeviceCapture, TooFewRowsInARunArePadding) {
  StorePair stores(8, transition_layout(), 4096, 2);
  stores.append_in_turn(4);
  CapturedSample captured(stores, 6);
  stores.clear();
  stores.append_in_turn(1);
  captured.run();
  stores.runtime.synchronize_all();
  const QueuedBatch empty = stores.make_batch(6);
  const Batch batch = stores.batch_of(6, empty.memory.data());
  for (int i = 0; i < 6; ++i) batch.target().indices()[i] = -1;
  EXPECT_EQ(std::memcmp(captured.memory(), empty.memory.data(), empty.expected.size()), 0);
}

TEST(DeviceCapture, OfAllButSamplesIsADeviceErrorThatChangesNothing) {
  StorePair stores(8, transition_layout(), 4096, 2);
  stores.append_in_turn(3);
  stores.push(1);
  const auto refuses = [&](const auto& call) {
    stores.runtime.begin_capture(&capture_stream);
    EXPECT_THROW(call(), DeviceError);
    EXPECT_TRUE(stores.runtime.end_capture(&capture_stream).empty());
  };
  const testing::RowSet rows(stores.host.layout(), 2);
  const bool on_device[7] = {};
  DeviceStore& device = stores.device;
  refuses([&] { device.append({nullptr, 2}, rows.source(), 2, &capture_stream); });
  refuses([&] {
    device.append_columns({0, 2}, 1, {rows.source(), on_device, false, false}, &capture_stream);
  });
  refuses([&] { device.end_episode(0, &capture_stream); });
  refuses([&] { device.clear(&capture_stream); });
  refuses([&] { device.take(0, 7, {}, &capture_stream); });
  const SequenceSpec cross = {.length = 2, .burn_in = 0, .boundary = SequenceBoundary::kCross};
  EXPECT_GT(device.count_sequences(cross, kStream), 0u);  // the host knows what it needs
  refuses([&] { device.sample_sequences(cross, 1, {}, &capture_stream); });
  stores.append_columns(1);
  refuses([&] {
    device.count_sequences({.length = 2, .burn_in = 0, .boundary = SequenceBoundary::kCross},
                           &capture_stream);
  });
  EXPECT_TRUE(stores.sample_is_same(9));
  EXPECT_TRUE(stores.rows_are_same());
}

}  // namespace
}  // namespace velora
