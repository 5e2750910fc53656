#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "core/gather.h"

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
      lanes_.push_back({.pushed = count, .cleared = 0, .turn = count - count % capacity});
    }
  }

  RowsView view() const {
    return {.rows = bytes_.data(),
            .pitch = pitch_,
            .flags_offset = pitch_ - 1,
            .lane_capacity = capacity_,
            .lanes = lanes_.data(),
            .num_lanes = static_cast<std::uint32_t>(lanes_.size())};
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
  gather(rows.view(), ids, target);
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
  gather(rows.view(), ids, target);
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
  std::vector<std::int64_t> indices(50);
  BatchTarget target = {};
  target.gamma = 0.75f;
  target.dones = dones.data();
  target.truncations = truncations.data();
  target.discounts = discounts.data();
  target.indices = indices.data();
  gather(rows.view(), ids, target);
  for (std::size_t i = 0; i < 50; ++i) {
    const auto flags = std::to_integer<int>(rows.row(ids[i])[15]);
    const bool done = (flags & kDone) != 0;
    EXPECT_EQ(dones[i], done ? 1.0f : 0.0f);
    EXPECT_EQ(truncations[i], (flags & kTruncated) != 0 ? 1.0f : 0.0f);
    EXPECT_EQ(discounts[i], done ? 0.0f : 0.75f);
    EXPECT_EQ(indices[i], static_cast<std::int64_t>(i));
  }
}

TEST(Gather, IndicesHoldLaneAndSerial) {
  const Rows rows(4, {9, 11}, 16);
  std::vector<std::int64_t> indices(2);
  BatchTarget target = {};
  target.indices = indices.data();
  gather(rows.view(), std::vector<RowId>{{1, 10}, {0, 8}}, target);
  EXPECT_EQ(indices[0], (std::int64_t{1} << RowId::kSerialBits) + 10);
  EXPECT_EQ(indices[1], 8);
}

}  // namespace
}  // namespace velora
