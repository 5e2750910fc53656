#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "store_pair.h"

namespace velora {
namespace {

using testing::Bytes;
using testing::mixed_layout;
using testing::StorePair;
using testing::transition_layout;

char names[3];

/// Does one thing to both stores, on any stream.
void step(StorePair& stores, std::mt19937_64& random) {
  const std::uint32_t num_lanes = stores.host.lanes().num_lanes();
  void* stream = &names[random() % 3];
  const auto lane = static_cast<std::uint32_t>(random() % num_lanes);
  switch (random() % 12) {
    case 0:
    case 1:
      return stores.append_anywhere(1 + random() % 40);
    case 2:
      return stores.append_in_turn(1 + random() % 5);
    case 3:
      return stores.push(lane, stream);
    case 4:
      return stores.append_columns(
          {lane, 1}, 1, [&](std::size_t) { return random() % 2 == 0; }, stream);
    case 5: {
      const std::uint64_t mask = random();
      return stores.append_columns(
          {0, num_lanes}, 1 + random() % 9, [&](std::size_t f) { return (mask >> f & 1) != 0; },
          stream);
    }
    case 6:
    case 7:
      stores.host.end_episode(lane);
      return stores.device.end_episode(lane, stream);
    case 8:
      if (random() % 4 == 0) stores.clear();
      return;
    case 9:
      return stores.device.flush(stream);
    case 10:
      return stores.device.settle(stream);
    default: {
      if (random() % 4 != 0) return;
      const std::vector<SavedLane> lanes = stores.host.lanes().save();
      Bytes rows(stores.size() * stores.host.layout().pitch());
      testing::save_to(rows, stores.host);
      const std::uint64_t draws = stores.host.lanes().control().draws;
      stores.host.import_rows({lanes, rows, {}});
      stores.device.import_rows({lanes, rows, {}, draws + 3}, stream);
      stores.host.lanes().set_draws(draws + 3);
    }
  }
}

TEST(DeviceWalk, AnyHistoryLeavesTheRowsAndTheDrawsOfTheStore) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::mt19937_64 random(seed);
    const std::uint32_t num_lanes = std::vector<std::uint32_t>{1, 2, 3, 17, 40}[seed % 5];
    StorePair stores(1 + random() % 9, random() % 2 == 0 ? mixed_layout() : transition_layout(),
                     random() % 2 == 0 ? 1 : 1500, num_lanes, seed,
                     random() % 2 == 0 ? StorageKind::kDevice : StorageKind::kPinned);
    for (int i = 0; i < 60; ++i) {
      step(stores, random);
      ASSERT_EQ(stores.device.size(), stores.size()) << seed;
      if (stores.size() > 0 && random() % 3 == 0) {
        ASSERT_TRUE(stores.sample_is_same(1 + random() % stores.size(), &names[random() % 3],
                                          static_cast<std::uint32_t>(1 + random() % 3)))
            << "seed " << seed << " step " << i;
      }
      if (stores.size() > 0 && random() % 8 == 0) {
        const std::uint64_t start = random() % stores.size();
        ASSERT_TRUE(stores.take_is_same(start, 1 + random() % (stores.size() - start)))
            << "seed " << seed << " step " << i;
      }
    }
    ASSERT_TRUE(stores.rows_are_same()) << seed;
  }
}

}  // namespace
}  // namespace velora
