#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "batches.h"
#include "core/host/check_saved.h"
#include "core/host/store.h"
#include "core/values/errors.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::Bytes;
using testing::LanesOf;

const RowLayout kFlagsAlone({});

/// One lane with the flags of its rows, from serial `first` on.
struct SavedFlags {
  std::uint64_t first;
  std::vector<std::uint8_t> flags;
  std::uint64_t episode;

  void check() const {
    const LanesOf of(8, 1);
    const SavedLane lane = {first, first + flags.size(), episode};
    Bytes rows(flags.size() * LanesOf::kPitch);
    for (std::size_t i = 0; i < flags.size(); ++i) rows[i * LanesOf::kPitch] = std::byte{flags[i]};
    check_saved({{&lane, 1}, rows, {}}, of.lanes, kFlagsAlone, nullptr);
  }
};

TEST(SavedRows, OfAnyHistoryAreAccepted) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    Store store(testing::mixed_layout(), 1 + random() % 5, 2, 0);
    for (int step = 0; step < 30; ++step) {
      const auto lane = static_cast<std::uint32_t>(random() % 2);
      const testing::RowSet rows = testing::random_rows(random, store.layout(), 1);
      if (random() % 9 == 0) store.clear();
      if (random() % 5 == 0) store.end_episode(lane);
      if (random() % 9 == 0) store.clear();
      store.append({.lanes = &lane, .num_lanes = 2}, rows.source(), 1);
      const std::vector<SavedLane> lanes = store.lanes().save();
      Bytes saved(store.view().size() * store.layout().pitch());
      testing::save_to(saved, store);
      EXPECT_NO_THROW(check_saved({lanes, saved, {}}, store.lanes(), store.layout(), nullptr));
    }
  }
}

TEST(SavedRows, FlagsThatNoPushesWroteAreRefused) {
  const std::vector<SavedFlags> good = {
      {0, {kFirst, 0, kDone, kFirst}, 3},
      {0, {kFirst | kDone, kFirst | kTruncated}, 2},
      {5, {0, 0}, 4},
      {5, {0, kDone}, 7},
      {5, {kFirst, 0}, 5},
      {5, {}, 2},
      {0, {}, 0},
  };
  for (const SavedFlags& saved : good) EXPECT_NO_THROW(saved.check());
  const std::vector<SavedFlags> bad = {
      {0, {0, 0}, 0},               // the first step of all begins an episode
      {0, {kFirst, kFirst}, 1},     // none begins before another ended
      {0, {kFirst | kDone, 0}, 1},  // the step after an end begins one
      {0, {kFirst | 8}, 0},         // unknown bits
      {0, {kFirst, 0x80}, 0},       // the same
      {0, {kFirst, 0, 0}, 2},       // an episode that began where none did
      {0, {kFirst, 0, kDone}, 0},   // one that ended
      {5, {0, 0}, 5},               // one that began before
      {5, {0, 0}, 7},               // the same
      {5, {kFirst, 0}, 4},          // one that did not
  };
  for (const SavedFlags& saved : bad) EXPECT_THROW(saved.check(), ValueError);
}

TEST(SavedRows, FlagsOfBoolFieldsBecomeZeroOrOne) {
  const auto layout = [](ObservationStorage observations) {
    return RowLayout(
        {{.name = "a", .role = Role::kState, .dtype = DType::kBool, .shape = {2, 2}},
         {.name = "b", .role = Role::kState, .dtype = DType::kUInt8, .shape = {3}},
         {.name = "r", .role = Role::kReward, .dtype = DType::kFloat32, .shape = {1}},
         {.name = "c", .role = Role::kNextState, .dtype = DType::kBool, .shape = {2, 2}},
         {.name = "d", .role = Role::kNextState, .dtype = DType::kUInt8, .shape = {3}},
         {.name = "e", .role = Role::kExtra, .dtype = DType::kBool, .shape = {1}}},
        observations);
  };
  const std::vector<ObservationStorage> kinds = {
      {}, {.compact = true}, {.compact = true, .frame_stack = 2}};
  for (const ObservationStorage& kind : kinds) {
    const RowLayout rows = layout(kind);
    const BoolFields bools(rows);
    Bytes row(rows.pitch(), std::byte{7});
    Bytes block(rows.block_bytes(), std::byte{7});
    bools.clean_row(row.data());
    if (kind.compact) bools.clean_block(block.data());
    const auto ones = [](const Bytes& bytes) {
      return std::count(bytes.begin(), bytes.end(), std::byte{1});
    };
    EXPECT_EQ(ones(row), kind.frame_stack > 1 ? 3 : kind.compact ? 5 : 9);
    EXPECT_EQ(ones(block), kind.compact ? 4 : 0);
  }
}

}  // namespace
}  // namespace velora
