#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/host/step_reader.h"
#include "core/host/store.h"
#include "history.h"
#include "streams.h"

namespace velora {
namespace {

using testing::History;
using testing::mixed_layout;
using testing::random_rows;
using testing::RowSet;
using testing::Streams;
using testing::transition_layout;

std::vector<std::size_t> all_fields(const RowLayout& layout) {
  std::vector<std::size_t> fields(layout.fields().size());
  std::iota(fields.begin(), fields.end(), std::size_t{0});
  return fields;
}

/// Compares a reader of these fields with the history, part by part.
void expect_steps(const Store& store, const History& history,
                  const std::vector<std::size_t>& fields) {
  StepReader reader(store, fields);
  StepReader::Part part;
  std::vector<RowId> found;
  while (reader.next(part)) {
    ASSERT_GT(part.count, 0u);
    ASSERT_LE(part.count, reader.most());
    ASSERT_EQ(part.is_first, found.empty() || found.back().lane != part.lane);
    const std::uint64_t first = part.is_first ? history.begin(part.lane) : found.back().serial + 1;
    for (std::size_t i = 0; i < part.count; ++i) {
      const RowId id = {part.lane, first + i};
      found.push_back(id);
      const auto ends = static_cast<std::uint8_t>(history.flags(id) & kEnds);
      const bool is_newest = id.serial + 1 == history.end(id.lane);
      ASSERT_EQ(part.source.flags(i), is_newest && ends == 0 ? kTruncated : ends);
      for (std::size_t f = 0; f < fields.size(); ++f) {
        const std::size_t nbytes = store.layout().fields()[fields[f]].nbytes;
        ASSERT_EQ(
            std::memcmp(part.source.fields[f] + i * nbytes, history.at(id, fields[f]), nbytes), 0);
      }
    }
  }
  ASSERT_EQ(found, history.live());
}

class StepReaderOf : public ::testing::TestWithParam<ObservationStorage> {};

TEST_P(StepReaderOf, ReadsLiveStepsOfUnevenLanesAndEndsThem) {
  constexpr std::uint32_t kLanes = 4;
  Store store(transition_layout(GetParam()), 5, kLanes, 0);
  History history(5, kLanes);
  Streams streams(3, kLanes, {.frames = GetParam().frame_stack});
  const std::vector<std::size_t> fields = all_fields(store.layout());
  expect_steps(store, history, fields);
  for (const std::size_t count : {1, 3, 9, 30}) {
    std::vector<std::uint32_t> lanes(count);
    for (std::uint32_t& lane : lanes) {
      lane = static_cast<std::uint32_t>(streams.random()() % (kLanes - 1));
    }
    const LaneOrder order = {.lanes = lanes.data(), .num_lanes = kLanes};
    RowSet rows = streams.next(order, count);
    store.append(order, rows.source(), count);
    history.append(order, std::move(rows));
    expect_steps(store, history, fields);
  }
}

INSTANTIATE_TEST_SUITE_P(Storages, StepReaderOf,
                         ::testing::Values(ObservationStorage{},
                                           ObservationStorage{.compact = true},
                                           ObservationStorage{.compact = true, .frame_stack = 2},
                                           ObservationStorage{.compact = true, .frame_stack = 4}));

TEST(StepReader, GivesFieldsInTheOrderOfTheRowsToBeWritten) {
  Store store(mixed_layout(), 6, 1, 0);
  History history(6, 1);
  std::mt19937_64 random(1);
  const LaneOrder order = {.lanes = nullptr, .num_lanes = 1};
  RowSet rows = random_rows(random, store.layout(), 9);
  store.append(order, rows.source(), 9);
  history.append(order, std::move(rows));
  expect_steps(store, history, {5, 0, 3});
}

TEST(StepReader, ReadsStepsThatAreLargerThanAPartOneByOne) {
  Store store(
      RowLayout(
          {{.name = "state", .role = Role::kState, .dtype = DType::kUInt8, .shape = {3 << 20}}}),
      3, 1, 0);
  History history(3, 1);
  const LaneOrder order = {.lanes = nullptr, .num_lanes = 1};
  RowSet rows(store.layout(), 3);
  for (std::size_t i = 0; i < 3; ++i) rows.at(i, 0)[5] = static_cast<std::byte>(i);
  store.append(order, rows.source(), 3);
  history.append(order, std::move(rows));
  EXPECT_EQ(StepReader(store, all_fields(store.layout())).most(), 1u);
  expect_steps(store, history, all_fields(store.layout()));
}

}  // namespace
}  // namespace velora
