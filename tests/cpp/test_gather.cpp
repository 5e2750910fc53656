#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/host/gather.h"

namespace velora {
namespace {

constexpr std::byte kGuard{0xA5};

/// Lanes of rows with random bytes, and a view of them.
class Rows {
 public:
  Rows(std::uint64_t capacity, std::vector<std::uint64_t> pushed, std::uint64_t pitch)
      : capacity_(capacity), pitch_(pitch), bytes_(capacity * pushed.size() * pitch) {
    std::mt19937 engine(5);
    for (std::byte& byte : bytes_) byte = static_cast<std::byte>(engine());
    for (const std::uint64_t count : pushed) {
      lanes_.push_back(
          {.pushed = count, .cleared = 0, .lap = count - count % capacity, .episode = 0});
    }
  }

  RowsView view() const {
    return {.rows = bytes_.data(),
            .pitch = pitch_,
            .flags_offset = pitch_ - 1,
            .lane_capacity = capacity_,
            .lane_slots = capacity_,
            .lanes = lanes_.data(),
            .num_lanes = static_cast<std::uint32_t>(lanes_.size()),
            .sizes = {},
            .largest = nullptr,
            .even_size = 0,
            .journal = nullptr};
  }

  /// By the definition: slot = serial % capacity.
  const std::byte* row(RowId id) const {
    return bytes_.data() + (id.lane * capacity_ + id.serial % capacity_) * pitch_;
  }

  std::vector<RowId> draw(std::size_t count) const {
    std::mt19937 engine(6);
    std::vector<RowId> ids;
    for (std::size_t i = 0; i < count; ++i) {
      const auto lane = static_cast<std::uint32_t>(engine() % lanes_.size());
      ids.push_back({lane, view().begin(lane) + engine() % view().size(lane)});
    }
    return ids;
  }

 private:
  std::uint64_t capacity_;
  std::uint64_t pitch_;
  std::vector<std::byte> bytes_;
  std::vector<LaneState> lanes_;
};

void expect_column(const Rows& rows, const std::vector<RowId>& ids, std::uint64_t offset,
                   std::uint64_t nbytes) {
  std::vector<std::byte> out(ids.size() * nbytes + 64, kGuard);
  const Column column = {.row_offset = offset, .nbytes = nbytes, .out = out.data()};
  BatchTarget target = {};
  target.columns = &column;
  target.num_columns = 1;
  gather(rows.view(), nullptr, ids, target);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (std::uint64_t b = 0; b < nbytes; ++b) {
      ASSERT_EQ(out[i * nbytes + b], rows.row(ids[i])[offset + b])
          << "row " << i << ", byte " << b << " of " << nbytes;
    }
  }
  for (std::size_t b = ids.size() * nbytes; b < out.size(); ++b) ASSERT_EQ(out[b], kGuard);
}

TEST(Gather, FieldOfEverySizeIsCopiedAndNoMore) {
  const Rows rows(10, {25}, 1200);
  const std::vector<RowId> ids = rows.draw(30);
  for (std::uint64_t nbytes = 1; nbytes <= 130; ++nbytes) expect_column(rows, ids, 3, nbytes);
  for (const std::uint64_t nbytes : {255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1199}) {
    expect_column(rows, ids, 0, nbytes);
  }
}

TEST(Gather, BatchOfEverySizeAroundThePrefetchIsCopied) {
  const Rows rows(100, {250}, 64);
  for (std::size_t count = 0; count <= 40; ++count) expect_column(rows, rows.draw(count), 8, 20);
}

TEST(Gather, RowsOfAllLanesBeforeAndAfterAWrapAreFound) {
  for (const std::uint64_t capacity : {1, 2, 7, 16}) {
    const Rows rows(capacity, {1, capacity, capacity + 1, 5 * capacity, 5 * capacity + 3}, 48);
    std::vector<RowId> ids;
    for (std::uint32_t lane = 0; lane < 5; ++lane) {
      for (std::uint64_t s = rows.view().begin(lane); s < rows.view().end(lane); ++s) {
        ids.push_back({lane, s});
      }
    }
    expect_column(rows, ids, 0, 47);
  }
}

TEST(Gather, SameRowTwiceIsCopiedTwice) {
  const Rows rows(4, {4}, 32);
  expect_column(rows, {{0, 2}, {0, 2}, {0, 1}, {0, 2}}, 4, 16);
}

TEST(Gather, ColumnsGoToTheirOwnPlaces) {
  const Rows rows(9, {20}, 96);
  const std::vector<RowId> ids = rows.draw(17);
  std::vector<std::byte> first(17 * 12);
  std::vector<std::byte> second(17 * 40);
  const Column columns[] = {{.row_offset = 0, .nbytes = 12, .out = first.data()},
                            {.row_offset = 50, .nbytes = 40, .out = second.data()}};
  BatchTarget target = {};
  target.columns = columns;
  target.num_columns = 2;
  gather(rows.view(), nullptr, ids, target);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(first[i * 12 + 11], rows.row(ids[i])[11]);
    ASSERT_EQ(second[i * 40 + 39], rows.row(ids[i])[89]);
  }
}

TEST(Gather, FlagsBecomeTheNumbersOfEachStep) {
  const Rows rows(50, {50}, 16);
  std::vector<RowId> ids;
  for (std::uint64_t serial = 0; serial < 50; ++serial) ids.push_back({0, serial});
  std::vector<float> dones(50);
  std::vector<float> truncations(50);
  std::vector<float> discounts(50);
  std::vector<float> firsts(50);
  std::vector<std::int64_t> indices(50);
  BatchTarget target = {};
  target.gamma = 0.75;
  target.set(BatchPart::kDones, dones.data());
  target.set(BatchPart::kTruncations, truncations.data());
  target.set(BatchPart::kDiscounts, discounts.data());
  target.set(BatchPart::kIsFirst, firsts.data());
  target.set(BatchPart::kIndices, indices.data());
  gather(rows.view(), nullptr, ids, target);
  for (std::size_t i = 0; i < 50; ++i) {
    const auto flags = std::to_integer<int>(rows.row(ids[i])[15]);
    const bool done = (flags & kDone) != 0;
    EXPECT_EQ(dones[i], done ? 1.0f : 0.0f);
    EXPECT_EQ(truncations[i], (flags & kTruncated) != 0 ? 1.0f : 0.0f);
    EXPECT_EQ(discounts[i], done ? 0.0f : 0.75f);
    EXPECT_EQ(firsts[i], (flags & kFirst) != 0 ? 1.0f : 0.0f);
    EXPECT_EQ(indices[i], static_cast<std::int64_t>(i));
  }
}

TEST(Gather, IndicesHoldLaneAndSerial) {
  const Rows rows(4, {9, 11}, 16);
  std::vector<std::int64_t> indices(2);
  BatchTarget target = {};
  target.set(BatchPart::kIndices, indices.data());
  gather(rows.view(), nullptr, std::vector<RowId>{{1, 10}, {0, 8}}, target);
  EXPECT_EQ(indices[0], (std::int64_t{1} << RowId::kSerialBits) + 10);
  EXPECT_EQ(indices[1], 8);
}

TEST(Gather, RewardsAreSummedUntilTheEpisodeEndsOrTheRowsDo) {
  constexpr std::uint64_t kPitch = 16;
  const std::uint8_t flags[] = {0, 0, kDone, 0, kTruncated, 0, 0};
  std::vector<std::byte> bytes(7 * kPitch);
  for (std::size_t i = 0; i < 7; ++i) {
    const auto reward = static_cast<float>(1 << i);
    std::memcpy(&bytes[i * kPitch], &reward, sizeof(reward));
    bytes[i * kPitch + 4] = std::byte{flags[i]};
    bytes[i * kPitch + 5] = static_cast<std::byte>(i);
  }
  const LaneState lane = {.pushed = 7, .cleared = 0, .lap = 0, .episode = 5};
  const RowsView view = {.rows = bytes.data(),
                         .pitch = kPitch,
                         .flags_offset = 4,
                         .lane_capacity = 7,
                         .lane_slots = 7,
                         .lanes = &lane,
                         .num_lanes = 1,
                         .sizes = {},
                         .largest = nullptr,
                         .even_size = 0,
                         .journal = nullptr};
  std::vector<float> rewards(7);
  std::vector<float> dones(7);
  std::vector<float> truncations(7);
  std::vector<float> discounts(7);
  std::vector<std::byte> from(7);
  std::vector<std::byte> to(7);
  const Column columns[] = {
      {.row_offset = 5, .nbytes = 1, .out = from.data()},
      {.row_offset = 5, .nbytes = 1, .out = to.data(), .source = Source::kNext}};
  BatchTarget target = {};
  target.columns = columns;
  target.num_columns = 2;
  target.n_step = 3;
  target.gamma = 0.5;
  target.reward_offset = 0;
  target.rewards = rewards.data();
  target.set(BatchPart::kDones, dones.data());
  target.set(BatchPart::kTruncations, truncations.data());
  target.set(BatchPart::kDiscounts, discounts.data());
  gather(view, nullptr, std::vector<RowId>{{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}, {0, 6}},
         target);
  EXPECT_EQ(rewards, (std::vector<float>{1 + 1 + 1, 2 + 2, 4, 8 + 8, 16, 32 + 32, 64}));
  EXPECT_EQ(dones, (std::vector<float>{1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(truncations, (std::vector<float>{0, 0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(discounts, (std::vector<float>{0, 0, 0, 0.25, 0.5, 0.25, 0.5}));
  const std::size_t last[] = {2, 2, 2, 4, 4, 6, 6};
  for (std::size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(from[i], static_cast<std::byte>(i));
    EXPECT_EQ(to[i], static_cast<std::byte>(last[i]));
  }
}

/// All parts of a batch of `count` rows, with room to spare on both sides.
struct WholeBatch {
  static constexpr std::size_t kSpare = 5;

  explicit WholeBatch(std::size_t count) : floats(5 * (count + 2 * kSpare), 7.0f) {
    bytes.resize((count + 2 * kSpare) * kBytes, kGuard);
    indices.resize(count + 2 * kSpare, 7);
    column = {.row_offset = 2, .nbytes = kBytes, .out = bytes.data()};
    const std::size_t size = indices.size();
    target.columns = &column;
    target.num_columns = 1;
    target.gamma = 0.5;
    target.rewards = &floats[0];
    target.set(BatchPart::kDones, &floats[size]);
    target.set(BatchPart::kTruncations, &floats[2 * size]);
    target.set(BatchPart::kDiscounts, &floats[3 * size]);
    target.set(BatchPart::kIsFirst, &floats[4 * size]);
    target.set(BatchPart::kIndices, indices.data());
  }
  WholeBatch(const WholeBatch&) = delete;
  WholeBatch& operator=(const WholeBatch&) = delete;

  friend bool operator==(const WholeBatch& a, const WholeBatch& b) {
    return a.floats == b.floats && a.bytes == b.bytes && a.indices == b.indices;
  }

  static constexpr std::size_t kBytes = 20;
  std::vector<float> floats;
  std::vector<std::byte> bytes;
  std::vector<std::int64_t> indices;
  Column column;
  BatchTarget target = {};
};

TEST(Gather, RunIsWhatItsRowsAreOneByOne) {
  const Rows rows(70, {7, 205, 280}, 48);
  for (std::uint32_t lane = 0; lane < 3; ++lane) {
    const RowsView view = rows.view();
    for (const std::size_t count : {0u, 1u, 2u, 7u, 16u, 63u, 64u, 65u, 70u}) {
      if (count > view.size(lane)) continue;
      for (std::uint64_t start = 0; start <= view.size(lane) - count; start += 3) {
        const RowId first = {lane, view.begin(lane) + start};
        std::vector<RowId> ids;
        for (std::uint64_t i = 0; i < count; ++i) ids.push_back({lane, first.serial + i});
        WholeBatch one_by_one(count);
        gather(view, nullptr, ids, one_by_one.target, WholeBatch::kSpare);
        WholeBatch run(count);
        prefetch_run(view, first, count);
        gather_run(view, nullptr, first, count, run.target, WholeBatch::kSpare);
        ASSERT_TRUE(run == one_by_one) << lane << ' ' << start << ' ' << count;
      }
    }
  }
}

TEST(Gather, PlacesFromTheFirstOnAreWrittenAndNoOthers) {
  const Rows rows(70, {100}, 48);
  for (const std::size_t count : {1u, 7u, 8u, 9u, 33u}) {
    const std::vector<RowId> ids = rows.draw(count);
    WholeBatch batch(count);
    gather(rows.view(), nullptr, ids, batch.target, WholeBatch::kSpare);
    const WholeBatch untouched(count);
    for (std::size_t i = 0; i < count + 2 * WholeBatch::kSpare; ++i) {
      const bool inside = i >= WholeBatch::kSpare && i < WholeBatch::kSpare + count;
      ASSERT_EQ(batch.indices[i] != untouched.indices[i], inside);
      ASSERT_EQ(batch.target.floats(BatchPart::kDiscounts)[i] != 7.0f, inside);
      const std::byte* found = &batch.bytes[i * WholeBatch::kBytes];
      const std::byte* expected =
          inside ? rows.row(ids[i - WholeBatch::kSpare]) + 2 : untouched.bytes.data();
      ASSERT_EQ(std::memcmp(found, expected, WholeBatch::kBytes), 0);
    }
  }
}

TEST(Gather, PaddingIsZerosWithoutAnIndex) {
  for (const std::size_t count : {0u, 1u, 6u}) {
    WholeBatch batch(count);
    pad(batch.target, WholeBatch::kSpare, count);
    WholeBatch expected(count);
    for (std::size_t i = WholeBatch::kSpare; i < WholeBatch::kSpare + count; ++i) {
      for (float* part : {expected.target.rewards, expected.target.floats(BatchPart::kDones),
                          expected.target.floats(BatchPart::kTruncations),
                          expected.target.floats(BatchPart::kDiscounts),
                          expected.target.floats(BatchPart::kIsFirst)}) {
        part[i] = 0.0f;
      }
      expected.indices[i] = -1;
      std::memset(&expected.bytes[i * WholeBatch::kBytes], 0, WholeBatch::kBytes);
    }
    EXPECT_TRUE(batch == expected);
  }
  pad({}, 0, 5);  // nothing was asked for
}

}  // namespace
}  // namespace velora
