#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/host/batch_reader.h"
#include "core/host/store.h"
#include "core/random/distinct_draw.h"
#include "core/samplers/time_order.h"
#include "core/values/errors.h"
#include "history.h"
#include "runners.h"
#include "streams.h"

namespace velora {
namespace {

using testing::Batch;
using testing::Bytes;
using testing::History;
using testing::RowSet;
using testing::Streams;
using testing::transition_layout;

constexpr std::uint64_t kSeed = 0xFEDCBA9876543210;

/// Ways to store the same rows.
constexpr ObservationStorage kStorages[] = {{},
                                            {.compact = true},
                                            {.compact = true, .frame_stack = 2},
                                            {.compact = true, .frame_stack = 4}};

/// A Store and the history of it. Batches are made with `runner`.
class Recorded {
 public:
  Recorded(std::uint64_t capacity, std::uint32_t num_lanes, ObservationStorage storage,
           std::uint64_t seed = 1)
      : store(transition_layout(storage), capacity, num_lanes, kSeed),
        history(capacity, num_lanes),
        streams_(seed, num_lanes, {.frames = storage.frame_stack}) {}

  void append(const LaneOrder& order, std::size_t count) {
    RowSet rows = streams_.next(order, count);
    store.append(order, rows.source(), count);
    history.append(order, std::move(rows));
  }
  void append_to(std::uint32_t lane, std::size_t count) {
    const std::vector<std::uint32_t> lanes(count, lane);
    append({.lanes = lanes.data(), .num_lanes = history.num_lanes()}, count);
  }
  /// To lanes in no order.
  void append_anywhere(std::size_t count) {
    std::vector<std::uint32_t> lanes(count);
    for (std::uint32_t& lane : lanes) {
      lane = static_cast<std::uint32_t>(streams_.random()() % history.num_lanes());
    }
    append({.lanes = lanes.data(), .num_lanes = history.num_lanes()}, count);
  }

  void expect_sample(std::size_t count, std::uint32_t n_step) {
    const std::vector<RowId> live = history.live();
    ASSERT_EQ(store.view().size(), live.size());
    std::vector<RowId> ids;
    for (const std::uint64_t place : draw(count, live.size())) ids.push_back(live[place]);
    const auto sample = [&](const BatchTarget& target) { reader_.sample(count, target, runner); };
    ASSERT_EQ(batch_of(count, n_step, sample), batch_by_history(ids, n_step));
  }
  void expect_take(std::uint64_t start, std::size_t count) {
    const RowsView view = store.view();
    TimeOrder order(start);
    order.catch_up(view);
    order.begin({}, count);
    RowIds ids(count);
    order.next(ids);
    const auto take = [&](const BatchTarget& target) {
      reader_.take(start, count, target, runner);
    };
    ASSERT_EQ(batch_of(count, 1, take), batch_by_history(ids, 1));
  }
  /// `first_fields` come for the first step of each sequence alone.
  void expect_sequences(const SequenceSpec& spec, std::size_t count,
                        const std::vector<std::size_t>& first_fields = {}) {
    const RowLayout& layout = store.layout();
    const std::vector<RowId> starts = history.starts(spec);
    ASSERT_EQ(reader_.count_sequences(spec), starts.size());
    count = std::min(count, starts.size());
    std::vector<RowId> ids;
    std::vector<RowId> firsts;
    std::vector<float> mask;
    for (const std::uint64_t place : draw(count, starts.size())) {
      const std::size_t first = ids.size();
      history.add_sequence(spec, starts[place], ids, mask);
      firsts.push_back(ids[first]);
    }
    std::vector<std::size_t> step_fields;
    for (std::size_t f = 0; f < layout.fields().size(); ++f) {
      if (std::find(first_fields.begin(), first_fields.end(), f) == first_fields.end()) {
        step_fields.push_back(f);
      }
    }
    Bytes steps_found(Batch::nbytes(layout, ids.size()));
    Bytes firsts_found(Batch::nbytes(layout, count));
    std::vector<float> mask_found(mask.size());
    const Batch steps(layout, ids.size(), steps_found.data(), 1, step_fields);
    const Batch first_steps(layout, count, firsts_found.data(), 1, first_fields);
    reader_.sample_sequences(spec, count,
                             {.steps = testing::with_mask(steps.target(), mask_found.data()),
                              .firsts = columns_of(first_steps)},
                             runner);
    ASSERT_EQ(mask_found, mask);
    ASSERT_EQ(steps_found, batch_by_history(ids, 1, step_fields));
    if (!first_fields.empty()) {
      Bytes expected(firsts_found.size());
      const Batch batch(layout, count, expected.data(), 1, first_fields);
      history.write(layout, firsts, batch);
      ASSERT_EQ(std::memcmp(firsts_found.data(), expected.data(), batch.field_bytes()), 0);
    }
  }

  Store store;
  History history;
  const PartRunner* runner = nullptr;

 private:
  std::vector<std::uint64_t> draw(std::size_t count, std::uint64_t bound) {
    std::vector<std::uint64_t> drawn(count);
    DrawScratch scratch;
    draw_distinct(store.lanes().next_draw(), bound, drawn, scratch);
    return drawn;
  }
  /// The fields alone.
  static BatchTarget columns_of(const Batch& batch) {
    BatchTarget target = {};
    target.columns = batch.target().columns;
    target.num_columns = batch.target().num_columns;
    return target;
  }
  template <typename Fill>
  Bytes batch_of(std::size_t count, std::uint32_t n_step, const Fill& fill) const {
    Bytes bytes(Batch::nbytes(store.layout(), count));
    fill(Batch(store.layout(), count, bytes.data(), n_step).target());
    return bytes;
  }
  Bytes batch_by_history(std::span<const RowId> ids, std::uint32_t n_step) const {
    Bytes bytes(Batch::nbytes(store.layout(), ids.size()));
    history.write(store.layout(), ids, Batch(store.layout(), ids.size(), bytes.data(), n_step));
    return bytes;
  }
  Bytes batch_by_history(std::span<const RowId> ids, std::uint32_t n_step,
                         const std::vector<std::size_t>& fields) const {
    Bytes bytes(Batch::nbytes(store.layout(), ids.size()));
    history.write(store.layout(), ids,
                  Batch(store.layout(), ids.size(), bytes.data(), n_step, fields));
    return bytes;
  }

  Streams streams_;
  BatchReader reader_{store};
};

TEST(BatchReader, SamplesAreThoseOfTheHistoryAsLanesFillAndWrap) {
  for (const ObservationStorage storage : kStorages) {
    for (const std::uint32_t num_lanes : {1u, 3u}) {
      Recorded recorded(7, num_lanes, storage);
      std::mt19937_64 random(2);
      for (int step = 0; step < 60; ++step) {
        recorded.append_anywhere(1);
        const std::size_t count = 1 + random() % recorded.store.view().size();
        const auto n_step = static_cast<std::uint32_t>(1 + random() % 9);
        ASSERT_NO_FATAL_FAILURE(recorded.expect_sample(count, n_step));
      }
    }
  }
}

TEST(BatchReader, BatchesOfAllSizesAroundItsStagesAreThoseOfTheHistory) {
  for (const ObservationStorage storage : kStorages) {
    Recorded recorded(40, 2, storage);
    recorded.append_anywhere(170);
    for (const std::size_t count : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 47u, 48u, 49u, 80u}) {
      for (const std::uint32_t n_step : {1u, 2u, 5u, 16u, 17u, 18u, 100u}) {
        ASSERT_NO_FATAL_FAILURE(recorded.expect_sample(count, n_step)) << count << ' ' << n_step;
      }
    }
  }
}

TEST(BatchReader, TakeGivesAnyPartOfOneLane) {
  for (const ObservationStorage storage : kStorages) {
    Recorded recorded(9, 1, storage);
    for (int step = 0; step < 3; ++step) {
      recorded.append_to(0, 7);
      const std::uint64_t size = recorded.store.view().size();
      for (std::uint64_t start = 0; start < size; ++start) {
        for (std::size_t count = 1; count <= size - start; ++count) {
          ASSERT_NO_FATAL_FAILURE(recorded.expect_take(start, count));
        }
      }
    }
  }
}

TEST(BatchReader, TakeGivesAnyPartInTimeOrder) {
  for (const ObservationStorage storage : kStorages) {
    Recorded recorded(5, 3, storage);
    recorded.append_to(0, 9);
    recorded.append_to(1, 2);
    recorded.append_to(2, 4);
    for (std::uint64_t start = 0; start < 11; ++start) {
      for (std::size_t count = 1; count <= 11 - start; ++count) {
        ASSERT_NO_FATAL_FAILURE(recorded.expect_take(start, count));
      }
    }
  }
}

TEST(BatchReader, MoreThanThereIsIsAValueError) {
  Recorded recorded(5, 2, {});
  recorded.append_to(1, 3);
  BatchReader reader(recorded.store);
  EXPECT_THROW(reader.sample(4, {}), ValueError);
  EXPECT_THROW(reader.take(1, 3, {}), ValueError);
  const SequenceSpec spec = {.length = 2, .burn_in = 0, .boundary = SequenceBoundary::kCross};
  EXPECT_THROW(reader.sample_sequences(spec, 3, {}), ValueError);
}

TEST(BatchReader, DrawsAreCountedOnceTheyAreThere) {
  Recorded recorded(5, 2, {});
  recorded.append_to(1, 3);
  BatchReader reader(recorded.store);
  const auto draws = [&] { return recorded.store.lanes().next_draw().draw; };
  const SequenceSpec spec = {.length = 2, .burn_in = 0, .boundary = SequenceBoundary::kCross};
  EXPECT_THROW(reader.sample(4, {}), ValueError);
  EXPECT_THROW(reader.sample_sequences(spec, 3, {}), ValueError);
  reader.take(0, 3, {});
  EXPECT_EQ(draws(), 0u);
  reader.sample(3, {});
  EXPECT_EQ(draws(), 1u);
  Bytes mask(2 * 2 * sizeof(float));
  reader.sample_sequences(
      spec, 2,
      {.steps = testing::with_mask({}, reinterpret_cast<float*>(mask.data())), .firsts = {}});
  EXPECT_EQ(draws(), 2u);
}

/// Of several parts.
TEST(BatchReader, LargeBatchesAreThoseOfTheHistoryWhoeverGathersThem) {
  const testing::Backwards backwards(2);
  const testing::OnThreads on_threads;
  for (const ObservationStorage storage : kStorages) {
    for (const std::uint32_t num_lanes : {1u, 3u}) {
      Recorded recorded(6000 / num_lanes, num_lanes, storage);
      recorded.append_anywhere(7000);
      const std::size_t size = recorded.store.view().size();
      for (const PartRunner* runner : {static_cast<const PartRunner*>(&backwards),
                                       static_cast<const PartRunner*>(&on_threads)}) {
        recorded.runner = runner;
        for (const std::uint32_t n_step : {1u, 3u}) {
          ASSERT_NO_FATAL_FAILURE(recorded.expect_sample(size - 1, n_step));
        }
        ASSERT_NO_FATAL_FAILURE(recorded.expect_take(1, size - 2));
        for (const SequenceBoundary boundary :
             {SequenceBoundary::kPad, SequenceBoundary::kWithin, SequenceBoundary::kCross}) {
          const SequenceSpec spec = {.length = 4, .burn_in = 2, .boundary = boundary};
          ASSERT_NO_FATAL_FAILURE(recorded.expect_sequences(spec, 2000, {testing::kHidden}));
        }
      }
    }
  }
}

class Sequences : public ::testing::TestWithParam<SequenceBoundary> {};

INSTANTIATE_TEST_SUITE_P(AllBoundaries, Sequences,
                         ::testing::Values(SequenceBoundary::kPad, SequenceBoundary::kWithin,
                                           SequenceBoundary::kCross));

TEST_P(Sequences, AreThoseOfTheHistoryAsLanesFillAndWrap) {
  for (const ObservationStorage storage : kStorages) {
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      std::mt19937_64 random(seed);
      const std::uint64_t capacity = 1 + random() % 9;
      Recorded recorded(capacity, static_cast<std::uint32_t>(1 + random() % 3), storage, seed);
      for (int step = 0; step < 40; ++step) {
        recorded.append_anywhere(1 + random() % 3);
        if (random() % 20 == 0) {
          recorded.store.clear();
          recorded.history.clear();
        }
        const SequenceSpec spec = {
            .length = 1 + random() % 4, .burn_in = random() % 4, .boundary = GetParam()};
        ASSERT_NO_FATAL_FAILURE(recorded.expect_sequences(spec, 1 + random() % 20))
            << "seed " << seed << ", step " << step;
      }
    }
  }
}

TEST_P(Sequences, FieldsOfTheFirstStepAloneAreThoseOfTheHistory) {
  const std::vector<std::size_t> groups[] = {
      {testing::kHidden}, {testing::kImage, testing::kHidden}, {testing::kNextImage}};
  for (const ObservationStorage storage : kStorages) {
    for (const std::vector<std::size_t>& fields : groups) {
      Recorded recorded(20, 2, storage);
      recorded.append_anywhere(70);
      const SequenceSpec spec = {.length = 3, .burn_in = 2, .boundary = GetParam()};
      ASSERT_NO_FATAL_FAILURE(recorded.expect_sequences(spec, 30, fields));
    }
  }
}

TEST_P(Sequences, AreRightForMoreKindsThanAreKept) {
  Recorded recorded(9, 2, {});
  for (int step = 0; step < 60; ++step) {
    recorded.append_anywhere(1);
    const SequenceSpec spec = {
        .length = 1 + static_cast<std::uint64_t>(step) % 6, .burn_in = 1, .boundary = GetParam()};
    ASSERT_NO_FATAL_FAILURE(recorded.expect_sequences(spec, 9));
  }
}

}  // namespace
}  // namespace velora
