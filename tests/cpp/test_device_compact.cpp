#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/device/store.h"
#include "core/host/batch_reader.h"
#include "core/host/store.h"
#include "core/values/errors.h"
#include "emulated_runtime.h"
#include "store_pair.h"
#include "streams.h"

namespace velora {
namespace {

using testing::Batch;
using testing::Bytes;
using testing::EmulatedRuntime;
using testing::kSeed;
using testing::kStream;
using testing::RowSet;
using testing::StreamHabits;
using testing::Streams;
using testing::transition_layout;

/// A compact Store, and a DeviceStore that is given the same.
class CompactPair {
 public:
  CompactPair(std::uint64_t capacity, std::uint32_t num_lanes, StreamHabits habits,
              std::uint64_t seed, std::size_t half_bytes = 4096,
              StorageKind place = StorageKind::kDevice)
      : runtime(seed),
        layout_(transition_layout({.compact = true, .frame_stack = habits.frames})),
        capacity_(capacity),
        num_lanes_(num_lanes),
        half_bytes_(half_bytes),
        place_(place),
        host(layout_, capacity, num_lanes, kSeed),
        device(make()),
        streams_(seed, num_lanes, habits) {}

  void append_anywhere(std::size_t count) {
    std::vector<std::uint32_t> lanes(count);
    for (std::uint32_t& lane : lanes) lane = static_cast<std::uint32_t>(random()() % num_lanes_);
    append({.lanes = lanes.data(), .num_lanes = num_lanes_}, count);
  }
  void append_in_turn(std::size_t steps) {
    append({.lanes = nullptr, .num_lanes = num_lanes_}, steps * num_lanes_);
  }
  void end_episode(std::uint32_t lane) {
    host.end_episode(lane);
    device->end_episode(lane, kStream);
  }
  void clear() {
    host.clear();
    device->clear(kStream);
  }
  std::uint64_t size() const { return host.view().size(); }

  void expect_same(std::uint64_t count, std::uint32_t n_step = 1) {
    const std::size_t bytes = Batch::nbytes(layout_, count);
    Bytes expected(bytes);
    const DeviceMemory memory(runtime, bytes, "batch");
    std::memset(memory.data(), 0, bytes);
    reader_.sample(count, Batch(layout_, count, expected.data(), n_step).target());
    device->sample(count, Batch(layout_, count, memory.data(), n_step).target(), kStream);
    runtime.synchronize(kStream);
    ASSERT_EQ(std::memcmp(memory.data(), expected.data(), bytes), 0);
  }
  void expect_same_sequences(const SequenceSpec& spec) {
    const std::uint64_t count = reader_.count_sequences(spec);
    ASSERT_EQ(device->count_sequences(spec, kStream), count);
    if (count == 0) return;
    const std::size_t steps = count * (spec.burn_in + spec.length);
    const std::size_t bytes = Batch::nbytes(layout_, steps) + steps * sizeof(float);
    Bytes expected(bytes);
    const DeviceMemory memory(runtime, bytes, "batch");
    std::memset(memory.data(), 0, bytes);
    const Batch on_host(layout_, steps, expected.data());
    const Batch on_device(layout_, steps, memory.data());
    const auto target = [&](const Batch& batch, std::byte* start) {
      auto* mask = reinterpret_cast<float*>(start + bytes - steps * sizeof(float));
      return SequenceTarget{.steps = testing::with_mask(batch.target(), mask), .firsts = {}};
    };
    reader_.sample_sequences(spec, count, target(on_host, expected.data()));
    device->sample_sequences(spec, count, target(on_device, memory.data()), kStream);
    runtime.synchronize(kStream);
    ASSERT_EQ(std::memcmp(memory.data(), expected.data(), bytes), 0);
  }

  /// Goes on with stores that were given what the other kind saved.
  void exchange() {
    const std::pair<Bytes, Bytes> of_host = save(host);
    device->settle(kStream);
    Bytes rows(of_host.first.size());
    const Bytes blocks = testing::save_to(rows, *device, kStream);
    ASSERT_EQ(blocks.size(), of_host.second.size());
    const std::vector<SavedLane> lanes = device->lanes().save();
    auto heir = make();
    heir->append({.lanes = nullptr, .num_lanes = num_lanes_}, other_rows().source(), num_lanes_,
                 kStream);
    const std::uint64_t draws = host.lanes().control().draws;
    heir->import_rows({host.lanes().save(), of_host.first, of_host.second, draws}, kStream);
    host.import_rows({lanes, rows, blocks, draws});
    device = std::move(heir);
  }

  std::mt19937_64& random() { return streams_.random(); }

  EmulatedRuntime runtime;

 private:
  RowLayout layout_;
  std::uint64_t capacity_;
  std::uint32_t num_lanes_;
  std::size_t half_bytes_;
  StorageKind place_;

 public:
  Store host;
  std::unique_ptr<DeviceStore> device;

 private:
  std::unique_ptr<DeviceStore> make() {
    return std::make_unique<DeviceStore>(layout_, capacity_, num_lanes_, kSeed, runtime.device(),
                                         place_, kStream, half_bytes_);
  }
  void append(const LaneOrder& order, std::size_t count) {
    const RowSet rows = streams_.next(order, count);
    host.append(order, rows.source(), count);
    device->append(order, rows.source(), count, kStream);
  }
  const RowSet& other_rows() {
    others_ = std::make_unique<RowSet>(testing::random_rows(random(), layout_, num_lanes_));
    return *others_;
  }
  static std::pair<Bytes, Bytes> save(Store& store) {
    Bytes rows(count_rows(ranges_of(store.lanes().save())) * store.layout().pitch());
    Bytes blocks = testing::save_to(rows, store);
    return {std::move(rows), std::move(blocks)};
  }

  Streams streams_;
  BatchReader reader_{host};
  std::unique_ptr<RowSet> others_;
};

constexpr StreamHabits kHabits[] = {
    {.frames = 1},
    {.frames = 4},
    {.frames = 2, .values = 2, .broken_link = 4, .broken_stack = 3},
    {.frames = 4, .values = 1},
    {.frames = 1, .values = 2, .broken_link = 3},
};

TEST(DeviceCompact, GivesWhatTheStoreGivesWhateverIsPushed) {
  std::uint64_t seed = 0;
  for (const StreamHabits& habits : kHabits) {
    for (const std::uint32_t num_lanes : {1u, 3u}) {
      for (const std::size_t half_bytes : {700u, 1u << 14}) {
        CompactPair pair(6, num_lanes, habits, ++seed, half_bytes);
        for (int turn = 0; turn < 25; ++turn) {
          if (turn % 3 == 0) {
            pair.append_in_turn(1 + pair.random()() % 3);
          } else {
            pair.append_anywhere(1 + pair.random()() % 9);
          }
          if (pair.random()() % 5 == 0)
            pair.end_episode(static_cast<std::uint32_t>(pair.random()() % num_lanes));
          pair.expect_same(pair.size(), turn % 2 == 0 ? 1 : 3);
          if (pair.random()() % 12 == 0) pair.clear();
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(DeviceCompact, LanesOfFewRowsGiveWhatTheStoreGives) {
  for (const std::uint64_t capacity : {1u, 2u, 3u}) {
    for (const StreamHabits& habits : kHabits) {
      CompactPair pair(capacity, 2, habits, capacity);
      for (int turn = 0; turn < 20; ++turn) {
        pair.append_anywhere(1 + pair.random()() % 7);
        pair.expect_same(pair.size(), 2);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(DeviceCompact, SequencesAreThoseOfTheStore) {
  std::uint64_t seed = 50;
  for (const StreamHabits& habits : kHabits) {
    CompactPair pair(12, 2, habits, ++seed);
    for (int turn = 0; turn < 12; ++turn) {
      pair.append_anywhere(1 + pair.random()() % 9);
      for (const SequenceBoundary boundary :
           {SequenceBoundary::kPad, SequenceBoundary::kWithin, SequenceBoundary::kCross}) {
        pair.expect_same_sequences({.length = 1 + pair.random()() % 4,
                                    .burn_in = pair.random()() % 3,
                                    .boundary = boundary});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(DeviceCompact, SavedRowsAreThoseOfTheStore) {
  std::uint64_t seed = 90;
  for (const StreamHabits& habits : kHabits) {
    CompactPair pair(6, 3, habits, ++seed);
    for (int turn = 0; turn < 10; ++turn) {
      pair.append_anywhere(1 + pair.random()() % 11);
      if (turn % 4 == 2) pair.clear();
      if (turn % 5 == 1) pair.end_episode(1);
      pair.exchange();
      pair.append_anywhere(1 + pair.random()() % 5);
      pair.expect_same(pair.size(), 3);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(DeviceCompact, ManyBlocksComeInChunks) {
  CompactPair pair(60'000, 1, {.frames = 4, .values = 2, .broken_link = 1, .broken_stack = 1}, 3,
                   1u << 20);
  const std::size_t without_blocks = pair.device->nbytes();
  for (int turn = 0; turn < 3; ++turn) {
    pair.append_anywhere(40'000);
    pair.expect_same(2000, 2);
  }
  EXPECT_GE(pair.device->nbytes() - without_blocks, std::size_t{2} * (4u << 20));
}

TEST(DeviceCompact, PinnedRowsGiveWhatTheStoreGives) {
  CompactPair pair(9, 2, {.frames = 4}, 7, 2000, StorageKind::kPinned);
  for (int turn = 0; turn < 15; ++turn) {
    pair.append_anywhere(4);
    pair.expect_same(pair.size(), 2);
  }
}

}  // namespace
}  // namespace velora
