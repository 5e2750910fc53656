#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/values/errors.h"
#include "runners.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::Batch;
using testing::Bytes;
using testing::kStream;
using testing::mixed_layout;
using testing::QueuedBatch;
using testing::StorePair;
using testing::transition_layout;

/// Names of rows that are alive, that were, that may come, and of none, in any order.
std::vector<std::int64_t> any_names(const RowsView& view, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int64_t> names(count);
  for (std::int64_t& name : names) {
    const auto lane = static_cast<std::uint32_t>(random() % (view.num_lanes + 1));
    const std::uint64_t most = lane < view.num_lanes ? view.end(lane) + 3 : 3;
    name = static_cast<std::int64_t>(RowId{lane, random() % most}.packed());
    if (random() % 9 == 0) name = -1 - static_cast<std::int64_t>(random() % 5);
  }
  return names;
}

/// What the names give, one row at a time.
void gather_one_by_one(StorePair& stores, const std::vector<std::int64_t>& names,
                       const BatchTarget& target) {
  const RowsView view = stores.host.view();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const RowId id = RowId::unpack(static_cast<std::uint64_t>(names[i]));
    if (names[i] >= 0 && view.alive(id)) {
      gather(view, stores.host.compact(), std::span<const RowId>(&id, 1), target, i);
    } else {
      pad(target, i, 1);
    }
  }
}

void expect_gathers_are_same(StorePair& stores, std::size_t count, std::uint32_t n_step,
                             std::uint64_t seed) {
  const std::vector<std::int64_t> names = any_names(stores.host.view(), count, seed);
  const std::size_t bytes = Batch::nbytes(stores.host.layout(), count);
  Bytes expected(bytes);
  Bytes on_host(bytes);
  gather_one_by_one(stores, names, stores.batch_of(count, expected.data(), n_step).target());
  const testing::OnThreads runner;
  for (const PartRunner* by :
       {static_cast<const PartRunner*>(nullptr), static_cast<const PartRunner*>(&runner)}) {
    stores.host.gather({.packed = names.data(), .count = count},
                       stores.batch_of(count, on_host.data(), n_step).target(), kStream, by);
    EXPECT_EQ(on_host, expected);
  }
  const DeviceMemory there(stores.runtime, count * sizeof(std::int64_t), "names");
  std::memcpy(there.data(), names.data(), count * sizeof(std::int64_t));
  for (const bool on_device : {false, true}) {
    const QueuedBatch batch = stores.make_batch(count);
    stores.device.gather(
        {.packed = on_device ? reinterpret_cast<const std::int64_t*>(there.data()) : names.data(),
         .count = count,
         .on_device = on_device},
        stores.batch_of(count, batch.memory.data(), n_step).target(), kStream);
    stores.runtime.synchronize(kStream);
    EXPECT_EQ(std::memcmp(batch.memory.data(), expected.data(), bytes), 0);
  }
}

TEST(NamedRows, GatherGivesThoseThatAreAliveAsTheRingFillsAndWraps) {
  for (const ObservationStorage storage :
       {ObservationStorage{}, ObservationStorage{.compact = true},
        ObservationStorage{.compact = true, .frame_stack = 4}}) {
    for (const std::uint32_t n_step : {1u, 3u}) {
      StorePair stores(30, transition_layout(storage), 1u << 14, 3);
      for (std::uint64_t round = 0; round < 12; ++round) {
        stores.append_anywhere(9);
        expect_gathers_are_same(stores, 1 + round * 7, n_step, round);
      }
    }
  }
}

TEST(NamedRows, GatherOfManyGivesAsMany) {
  StorePair stores(1000);
  stores.push_many(1500);
  expect_gathers_are_same(stores, 5000, 2, 1);
}

TEST(NamedRows, GatherAfterClearIsPadding) {
  StorePair stores(10);
  expect_gathers_are_same(stores, 8, 1, 1);  // before there is any
  stores.push_many(14);
  stores.clear();
  expect_gathers_are_same(stores, 8, 1, 2);
  stores.push_many(3);
  expect_gathers_are_same(stores, 40, 2, 3);
}

void expect_replaced_are_same(StorePair& stores, std::uint64_t count, std::uint32_t n_step = 1) {
  const RowsView view = stores.host.view();
  const DrawKey key = stores.host.lanes().next_draw();
  std::vector<std::int64_t> names;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t position = bounded(random_bits(key, i, 0), view.size());
    names.push_back(static_cast<std::int64_t>(view.locate(position).packed()));
  }
  QueuedBatch batch = stores.make_batch(count);
  gather_one_by_one(stores, names, stores.batch_of(count, batch.expected.data(), n_step).target());
  Bytes on_host(batch.expected.size());
  stores.host.sample_replaced(count, stores.batch_of(count, on_host.data(), n_step).target());
  EXPECT_EQ(on_host, batch.expected);
  stores.device.sample_replaced(count, stores.batch_of(count, batch.memory.data(), n_step).target(),
                                kStream);
  stores.runtime.synchronize(kStream);
  EXPECT_TRUE(batch.is_as_expected());
}

TEST(NamedRows, SampleReplacedGivesTheFirstCandidatesOfAnyNumber) {
  StorePair stores(30, transition_layout(), 1u << 14, 3);
  for (int round = 0; round < 6; ++round) {
    stores.append_anywhere(11);
    for (const std::uint64_t count : {1u, 16u, 30u, 131u}) {
      expect_replaced_are_same(stores, count, 1 + static_cast<std::uint32_t>(round) % 3);
    }
    EXPECT_TRUE(stores.sample_is_same(stores.size() / 2));  // the draws that follow
  }
  expect_replaced_are_same(stores, 5000);  // more than a block draws by itself
}

TEST(NamedRows, SampleReplacedOfNoRowsOrTooManyIsRefusedAndDrawsNothing) {
  StorePair stores(5);
  Bytes memory(Batch::nbytes(stores.host.layout(), 1));
  const BatchTarget target = stores.batch_of(1, memory.data()).target();
  EXPECT_THROW(stores.host.sample_replaced(1, target), ValueError);
  EXPECT_THROW(stores.device.sample_replaced(1, target, kStream), ValueError);
  stores.push_many(5);
  EXPECT_THROW(stores.host.sample_replaced(kMaxDraw + 1, target), ValueError);
  EXPECT_THROW(stores.device.sample_replaced(kMaxDraw + 1, target, kStream), ValueError);
  EXPECT_TRUE(stores.sample_is_same(5));
}

}  // namespace
}  // namespace velora
