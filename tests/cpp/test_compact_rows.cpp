#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/host/batch_reader.h"
#include "core/host/store.h"
#include "core/values/errors.h"
#include "history.h"
#include "streams.h"

namespace velora {
namespace {

using testing::Batch;
using testing::Bytes;
using testing::History;
using testing::kImage;
using testing::kNextImage;
using testing::RowSet;
using testing::StreamHabits;
using testing::Streams;
using testing::transition_layout;

constexpr std::uint64_t kSeed = 77;

std::uint64_t count_saved_rows(const Store& store) {
  return count_rows(ranges_of(store.lanes().save()));
}

/// Links of all rows that are present, by what lies in them.
std::uint64_t count_links(const Store& store) {
  std::uint64_t links = 0;
  const RowsView view = store.view();
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    for (std::uint64_t serial = view.present(lane); serial < view.end(lane); ++serial) {
      std::uint32_t both[2];
      std::memcpy(both, view.row({lane, serial}) + store.layout().links_offset(), sizeof(both));
      links += std::count_if(both, both + 2, [](std::uint32_t link) { return link != UINT32_MAX; });
    }
  }
  return links;
}

/// A compact Store and one of whole rows that are given the same.
class StoreTwins {
 public:
  StoreTwins(std::uint64_t capacity, std::uint32_t num_lanes, StreamHabits habits,
             std::uint64_t seed)
      : whole(transition_layout(), capacity, num_lanes, kSeed),
        compact(transition_layout({.compact = true, .frame_stack = habits.frames}), capacity,
                num_lanes, kSeed),
        history(capacity, num_lanes),
        frames_(habits.frames),
        streams_(seed, num_lanes, habits) {}

  void append(const LaneOrder& order, std::size_t count) {
    RowSet rows = streams_.next(order, count);
    whole.append(order, rows.source(), count);
    compact.append(order, rows.source(), count);
    history.append(order, std::move(rows));
  }
  void append_anywhere(std::size_t count) {
    std::vector<std::uint32_t> lanes(count);
    for (std::uint32_t& lane : lanes) {
      lane = static_cast<std::uint32_t>(random()() % history.num_lanes());
    }
    append({.lanes = lanes.data(), .num_lanes = history.num_lanes()}, count);
  }
  void append_in_turn(std::size_t steps) {
    append({.lanes = nullptr, .num_lanes = history.num_lanes()}, steps * history.num_lanes());
  }
  void clear() {
    whole.clear();
    compact.clear();
    history.clear();
  }
  /// Goes on with a new store that was given what the old one exported.
  void pass_on() {
    Bytes rows(count_saved_rows(compact) * compact.layout().pitch());
    const Bytes blocks = testing::save_to(rows, compact);
    EXPECT_EQ(blocks.size(), count_links(compact) * compact.layout().block_bytes());
    const std::vector<SavedLane> lanes = compact.lanes().save();
    const std::uint64_t draws = compact.lanes().next_draw().draw;
    const RowLayout layout = compact.layout();
    const std::uint64_t capacity = compact.view().lane_capacity;
    std::destroy_at(&compact);
    std::construct_at(&compact, layout, capacity, history.num_lanes(), kSeed);
    Streams others(5, history.num_lanes(), {.frames = frames_});
    const LaneOrder in_turn = {.lanes = nullptr, .num_lanes = history.num_lanes()};
    const std::size_t count = 3 * std::size_t{history.num_lanes()};
    compact.append(in_turn, others.next(in_turn, count).source(), count);
    compact.import_rows({lanes, rows, blocks, draws});
  }

  void expect_same() {
    ASSERT_EQ(compact.compact()->blocks().num_used(), count_links(compact));
    const auto count = static_cast<std::size_t>(whole.view().size());
    ASSERT_EQ(compact.view().size(), count);
    if (count == 0) return;
    for (const std::uint32_t n_step : {1u, 3u}) {
      ASSERT_EQ(sampled(whole, count, n_step), sampled(compact, count, n_step));
    }
    ASSERT_EQ(taken(whole, count), taken(compact, count));
    for (const SequenceBoundary boundary :
         {SequenceBoundary::kPad, SequenceBoundary::kWithin, SequenceBoundary::kCross}) {
      const SequenceSpec spec = {.length = 2, .burn_in = 2, .boundary = boundary};
      ASSERT_EQ(sequences(whole, spec), sequences(compact, spec));
    }
  }

  /// Blocks that rows need, by what was pushed: one for each next state that the next row does not
  /// begin with, one for each stack that does not go on.
  std::uint64_t count_needed_blocks() const {
    std::uint64_t needed = 0;
    for (std::uint32_t lane = 0; lane < history.num_lanes(); ++lane) {
      const std::uint64_t begin = history.begin(lane, frames_ - 1);
      for (RowId id = {lane, begin}; id.serial < history.end(lane); ++id.serial) {
        const RowId next = {lane, id.serial + 1};
        const bool is_last = next.serial == history.end(lane);
        needed += is_last || !same_observation(id, kNextImage, next, kImage) ? 1 : 0;
        if (frames_ > 1) needed += follows(id) ? 0 : 1;
      }
    }
    return needed;
  }

  std::mt19937_64& random() { return streams_.random(); }

  Store whole;
  Store compact;
  History history;

 private:
  static constexpr std::size_t kImageBytes = 12;

  bool same_observation(RowId a, std::size_t a_image, RowId b, std::size_t b_image) const {
    return std::memcmp(history.at(a, a_image), history.at(b, b_image), kImageBytes) == 0 &&
           std::memcmp(history.at(a, a_image + 1), history.at(b, b_image + 1), 2) == 0;
  }
  /// Did the row's stack go on where that of the row before it stood?
  bool follows(RowId id) const {
    const std::uint64_t cleared = history.begin(id.lane, UINT32_MAX);
    if (id.serial == cleared) return false;
    const std::size_t frame = kImageBytes / frames_;
    return std::memcmp(history.at({id.lane, id.serial - 1}, kImage) + frame, history.at(id, kImage),
                       kImageBytes - frame) == 0;
  }

  Bytes sampled(Store& store, std::size_t count, std::uint32_t n_step) {
    Bytes bytes(Batch::nbytes(store.layout(), count));
    BatchReader(store).sample(count, Batch(store.layout(), count, bytes.data(), n_step).target());
    return bytes;
  }
  Bytes taken(Store& store, std::size_t count) {
    Bytes bytes(Batch::nbytes(store.layout(), count));
    BatchReader(store).take(0, count, Batch(store.layout(), count, bytes.data()).target());
    return bytes;
  }
  Bytes sequences(Store& store, const SequenceSpec& spec) {
    BatchReader reader(store);
    const std::uint64_t count = reader.count_sequences(spec);
    const std::uint64_t steps = count * (spec.length + spec.burn_in);
    const std::size_t mask_bytes = steps * sizeof(float);
    Bytes bytes(mask_bytes + 64 + Batch::nbytes(store.layout(), steps));
    std::byte* columns = bytes.data() + (mask_bytes + 63) / 64 * 64;
    const Batch batch(store.layout(), steps, columns);
    reader.sample_sequences(
        spec, count,
        {.steps = testing::with_mask(batch.target(), reinterpret_cast<float*>(bytes.data())),
         .firsts = {}});
    return bytes;
  }

  std::uint32_t frames_;
  Streams streams_;
};

constexpr std::uint32_t kFrames[] = {1, 2, 4};

TEST(CompactRows, GiveWhatWholeRowsGiveWhateverIsPushed) {
  const StreamHabits habits[] = {
      {.values = 256, .broken_link = 8, .broken_stack = 8},  // mostly linked
      {.values = 256, .broken_link = 1, .broken_stack = 1},  // never
      {.values = 256, .broken_link = 1000, .broken_stack = 1000},
      {.values = 2, .broken_link = 3, .broken_stack = 3},   // by chance, too
      {.values = 1, .broken_link = 3, .broken_stack = 3}};  // all alike
  for (const std::uint32_t frames : kFrames) {
    for (StreamHabits each : habits) {
      each.frames = frames;
      for (std::uint64_t seed = 0; seed < 8; ++seed) {
        std::mt19937_64 random(seed);
        StoreTwins twins(1 + random() % 7, static_cast<std::uint32_t>(1 + random() % 3), each,
                         seed);
        for (int step = 0; step < 50; ++step) {
          twins.append_anywhere(1 + random() % 3);
          ASSERT_NO_FATAL_FAILURE(twins.expect_same())
              << "frames " << frames << ", seed " << seed << ", step " << step;
          if (random() % 25 == 0) twins.clear();
          if (random() % 25 == 0) twins.pass_on();
        }
      }
    }
  }
}

TEST(CompactRows, LanesOfOneRowGiveWhatWholeRowsGive) {
  for (const std::uint32_t frames : kFrames) {
    StoreTwins twins(1, 2, {.frames = frames}, frames);
    for (int step = 0; step < 60; ++step) {
      twins.append_in_turn(1 + static_cast<std::size_t>(step) % 4);
      ASSERT_NO_FATAL_FAILURE(twins.expect_same());
      EXPECT_LE(twins.compact.compact()->blocks().num_used(), 2 * count_saved_rows(twins.compact));
      if (step % 20 == 7) twins.clear();
      if (step % 20 == 13) twins.pass_on();
    }
  }
}

TEST(CompactRows, BlocksAreThoseThatTheRowsNeed) {
  for (const std::uint32_t frames : kFrames) {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      StoreTwins twins(5, 2, {.frames = frames}, seed);
      for (int step = 0; step < 40; ++step) {
        twins.append_anywhere(3);
        ASSERT_EQ(twins.compact.compact()->blocks().num_used(), twins.count_needed_blocks())
            << "frames " << frames << ", seed " << seed << ", step " << step;
        if (step == 25) twins.clear();
        if (step == 32) twins.pass_on();
      }
    }
  }
}

TEST(CompactRows, OneEpisodeNeedsOneBlockForEachLane) {
  for (const std::uint32_t frames : kFrames) {
    const RowLayout layout = transition_layout({.compact = true, .frame_stack = frames});
    Store store(layout, 6, 1, 0);
    Streams streams(1, 1, {.frames = frames, .broken_link = 1u << 31, .broken_stack = 1u << 31});
    const LaneOrder order = {.lanes = nullptr, .num_lanes = 1};
    const auto push = [&](std::uint8_t flags) {
      // The stream begins anew after an end of its own, so it is asked until it goes on.
      RowSet rows = streams.next(order, 1);
      const bool ended = rows.flags(0) != 0;
      rows.set_flags(0, flags);
      store.append(order, rows.source(), 1);
      return ended;
    };
    int since_break = 0;
    for (int step = 0; step < 400; ++step) {
      since_break = push(0) ? 0 : since_break + 1;
      if (since_break > 12) {
        EXPECT_EQ(store.compact()->blocks().num_used(), 1u);
      }
    }
    store.clear();
    EXPECT_EQ(store.compact()->blocks().num_used(), 0u);
  }
}

TEST(CompactRows, SaveTakesEachBlockOnceAndRestoreNeedsNoMore) {
  for (const std::uint32_t frames : kFrames) {
    StoreTwins twins(9, 3, {.frames = frames}, 3);
    twins.append_anywhere(100);
    const std::uint64_t blocks = twins.compact.compact()->blocks().num_used();
    for (int round = 0; round < 3; ++round) {
      twins.pass_on();
      EXPECT_EQ(twins.compact.compact()->blocks().num_used(), blocks);
      ASSERT_NO_FATAL_FAILURE(twins.expect_same());
    }
  }
}

TEST(CompactRows, RestoreThatIsRefusedChangesNothing) {
  for (const std::uint32_t frames : kFrames) {
    StoreTwins twins(4, 2, {.frames = frames}, 1);
    twins.append_in_turn(9);
    Bytes rows(count_saved_rows(twins.compact) * twins.compact.layout().pitch());
    const Bytes blocks = testing::save_to(rows, twins.compact);
    const auto refuses = [&](const Bytes& bad_rows, const Bytes& bad_blocks) {
      EXPECT_THROW(twins.compact.import_rows({twins.compact.lanes().save(), bad_rows, bad_blocks}),
                   ValueError);
      ASSERT_NO_FATAL_FAILURE(twins.expect_same());
    };
    const auto cut = [](Bytes bytes, std::size_t count) {
      bytes.resize(bytes.size() - count);
      return bytes;
    };
    refuses(rows, cut(blocks, 1));
    refuses(rows, cut(blocks, twins.compact.layout().block_bytes()));
    refuses(rows, {});
    refuses(cut(rows, twins.compact.layout().pitch()), blocks);
    // No row without its blocks, but for those that lead to the row after them.
    Bytes unlinked = rows;
    for (std::size_t row = 0; row < rows.size(); row += twins.compact.layout().pitch()) {
      std::memset(&unlinked[row + twins.compact.layout().links_offset()], 0xFF, 8);
    }
    refuses(unlinked, blocks);
    // No block of two rows: the newest row of either lane has one.
    const std::size_t pitch = twins.compact.layout().pitch();
    const std::size_t links = twins.compact.layout().links_offset();
    Bytes shared = rows;
    std::memcpy(&shared[rows.size() / 2 - pitch + links], &rows[rows.size() - pitch + links],
                sizeof(std::uint32_t));
    refuses(shared, blocks);
  }
}

TEST(CompactRows, RowsWhoseStackIsNotThereAreRefused) {
  const RowLayout layout = transition_layout({.compact = true, .frame_stack = 4});
  const LaneOrder order = {.lanes = nullptr, .num_lanes = 1};
  Streams streams(1, 1, {.frames = 4});
  Store store(layout, 5, 1, 0);
  store.append(order, streams.next(order, 1).source(), 1);
  Bytes rows(layout.pitch());
  const Bytes blocks = testing::save_to(rows, store);
  constexpr std::size_t kHead = sizeof(std::uint32_t);  // after the link to the next state
  std::memset(&rows[layout.links_offset() + kHead], 0xFF, sizeof(std::uint32_t));
  EXPECT_THROW(store.import_rows({store.lanes().save(), rows, blocks}), ValueError);
}

}  // namespace
}  // namespace velora
