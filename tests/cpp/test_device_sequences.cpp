#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/values/errors.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::Batch;
using testing::Bytes;
using testing::kHidden;
using testing::kStream;
using testing::StorePair;
using testing::transition_layout;
using testing::wide_layout;

constexpr SequenceBoundary kBoundaries[] = {SequenceBoundary::kPad, SequenceBoundary::kWithin,
                                            SequenceBoundary::kCross};

/// A batch of sequences whose `hidden` comes once each, in memory that `bytes` points to.
class SequenceBatch {
 public:
  static std::size_t nbytes(const RowLayout& layout, const SequenceSpec& spec, std::size_t count) {
    const std::size_t steps = count * (spec.burn_in + spec.length);
    return Batch::nbytes(layout, steps) + Batch::nbytes(layout, count) + steps * sizeof(float);
  }

  SequenceBatch(const RowLayout& layout, const SequenceSpec& spec, std::size_t count,
                std::byte* bytes)
      : steps_(layout, count * (spec.burn_in + spec.length), bytes, 1, all_but_hidden(layout)),
        firsts_(layout, count, bytes + Batch::nbytes(layout, count * (spec.burn_in + spec.length)),
                1, {kHidden}),
        mask_(reinterpret_cast<float*>(bytes + nbytes(layout, spec, count) -
                                       count * (spec.burn_in + spec.length) * sizeof(float))) {}

  SequenceTarget target() const {
    SequenceTarget target = {.steps = testing::with_mask(steps_.target(), mask_), .firsts = {}};
    target.firsts.columns = firsts_.target().columns;
    target.firsts.num_columns = firsts_.target().num_columns;
    return target;
  }

 private:
  static std::vector<std::size_t> all_but_hidden(const RowLayout& layout) {
    std::vector<std::size_t> fields;
    for (std::size_t f = 0; f < layout.fields().size(); ++f) {
      if (f != kHidden) fields.push_back(f);
    }
    return fields;
  }

  Batch steps_;
  Batch firsts_;
  float* mask_;
};

/// Whether both stores draw the same sequences, when the host has found that there are so many.
bool sequences_are_same(StorePair& stores, const SequenceSpec& spec, std::size_t count,
                        void* stream = kStream) {
  const RowLayout& layout = stores.host.layout();
  Bytes expected(SequenceBatch::nbytes(layout, spec, count));
  const DeviceMemory memory(stores.runtime, expected.size(), "batch");
  std::memset(memory.data(), 0, expected.size());
  const SequenceBatch on_host(layout, spec, count, expected.data());
  const SequenceBatch on_device(layout, spec, count, memory.data());
  BatchReader(stores.host).sample_sequences(spec, count, on_host.target());
  stores.device.sample_sequences(spec, count, on_device.target(), stream);
  stores.runtime.synchronize(stream);
  return std::memcmp(memory.data(), expected.data(), expected.size()) == 0;
}

std::uint64_t count_of(StorePair& stores, const SequenceSpec& spec) {
  const std::uint64_t count = BatchReader(stores.host).count_sequences(spec);
  EXPECT_EQ(stores.device.count_sequences(spec, kStream), count);
  return count;
}

TEST(DeviceSequences, AreThoseOfTheStore) {
  for (const SequenceBoundary boundary : kBoundaries) {
    for (const std::uint32_t num_lanes : {1u, 3u}) {
      StorePair stores(20, transition_layout(), 4096, num_lanes);
      std::mt19937_64 random(num_lanes);
      for (int turn = 0; turn < 12; ++turn) {
        stores.append_anywhere(1 + random() % 15);
        const SequenceSpec spec = {
            .length = 1 + random() % 6, .burn_in = random() % 4, .boundary = boundary};
        const std::uint64_t starts = count_of(stores, spec);
        if (starts == 0) continue;
        EXPECT_TRUE(sequences_are_same(stores, spec, starts));
        EXPECT_TRUE(sequences_are_same(stores, spec, 1 + random() % starts));
      }
      EXPECT_TRUE(stores.sample_is_same(stores.size()));
    }
  }
}

TEST(DeviceSequences, AreThoseOfTheStoreWhereverRowsComeFrom) {
  for (std::uint64_t seed = 0; seed < 9; ++seed) {
    StorePair stores(12, transition_layout(), 1500, 3, seed);
    std::mt19937_64 random(seed);
    for (int turn = 0; turn < 30; ++turn) {
      const auto lane = static_cast<std::uint32_t>(random() % 3);
      switch (random() % 5) {
        case 0:
          stores.append_columns(1 + random() % 5);
          break;
        case 1:
          stores.host.end_episode(lane);
          stores.device.end_episode(lane, kStream);
          break;
        case 2:
          if (random() % 4 == 0) stores.clear();
          break;
        default:
          stores.append_anywhere(1 + random() % 5);
      }
      if (random() % 3 == 0) continue;  // so that more than one change is caught up with
      const SequenceSpec spec = {.length = 1 + random() % 4,
                                 .burn_in = random() % 3,
                                 .boundary = kBoundaries[random() % 3]};
      const std::uint64_t starts = count_of(stores, spec);
      if (starts > 0) {
        EXPECT_TRUE(sequences_are_same(stores, spec, 1 + random() % starts));
      }
    }
  }
}

TEST(DeviceSequences, OfManyFieldsAndLargeDrawsAreThoseOfTheStore) {
  StorePair wide(15, wide_layout(130), 900);
  wide.push_many(20);
  StorePair large(2000, transition_layout(), 1u << 16, 2);
  large.append_anywhere(4500);
  for (const SequenceBoundary boundary : kBoundaries) {
    const SequenceSpec spec = {.length = 3, .burn_in = 1, .boundary = boundary};
    if (count_of(wide, spec) >= 2) {
      EXPECT_TRUE(sequences_are_same(wide, spec, 2));
    }
    EXPECT_TRUE(sequences_are_same(large, spec, 1200));
  }
}

TEST(DeviceSequences, AreOneLaunchAndNoWait) {
  StorePair stores(40, transition_layout(), 1u << 16, 2);
  stores.append_columns(40);
  stores.device.flush(kStream);
  const SequenceSpec spec = {.length = 5, .burn_in = 2, .boundary = SequenceBoundary::kPad};
  const DeviceMemory memory(stores.runtime, SequenceBatch::nbytes(stores.host.layout(), spec, 9),
                            "batch");
  const SequenceBatch batch(stores.host.layout(), spec, 9, memory.data());
  const int before = stores.runtime.counts().launches;
  for (int i = 0; i < 3; ++i) stores.device.sample_sequences(spec, 9, batch.target(), kStream);
  EXPECT_EQ(stores.runtime.counts().launches, before + 3);
  EXPECT_EQ(stores.runtime.counts().host_waits, 0);
  stores.runtime.synchronize(kStream);
}

TEST(DeviceSequences, CapturedDrawAnewInEachRun) {
  char captured;
  StorePair stores(30, transition_layout(), 1u << 16, 2);
  stores.append_in_turn(20);
  const RowLayout& layout = stores.host.layout();
  const SequenceSpec spec = {.length = 4, .burn_in = 2, .boundary = SequenceBoundary::kPad};
  const std::size_t bytes = SequenceBatch::nbytes(layout, spec, 6);
  const DeviceMemory memory(stores.runtime, bytes, "batch");
  std::memset(memory.data(), 0, bytes);
  stores.runtime.begin_capture(&captured);
  stores.device.sample_sequences(spec, 6, SequenceBatch(layout, spec, 6, memory.data()).target(),
                                 &captured);
  const auto graph = stores.runtime.end_capture(&captured);
  BatchReader reader(stores.host);
  for (int run = 0; run < 4; ++run) {
    stores.runtime.run(graph, kStream);
    stores.runtime.synchronize(kStream);
    Bytes expected(bytes);
    reader.sample_sequences(spec, 6, SequenceBatch(layout, spec, 6, expected.data()).target());
    EXPECT_EQ(std::memcmp(memory.data(), expected.data(), bytes), 0);
    stores.append_anywhere(7);
  }
  const SequenceSpec within = {.length = 2, .burn_in = 0, .boundary = SequenceBoundary::kWithin};
  EXPECT_TRUE(sequences_are_same(stores, within, 2)) << "the host asks for the number of draws";
}

TEST(DeviceSequences, MoreThanThereAreIsAValueError) {
  StorePair stores(9, transition_layout());
  stores.push_many(4);
  const SequenceSpec cross = {.length = 3, .burn_in = 0, .boundary = SequenceBoundary::kCross};
  EXPECT_THROW(stores.device.sample_sequences(cross, 3, {}, kStream), ValueError);
  EXPECT_TRUE(sequences_are_same(stores, cross, 2));
}

}  // namespace
}  // namespace velora
