#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/errors.h"
#include "core/lanes.h"

namespace velora {
namespace {

constexpr std::uint64_t kPitch = 16;

/// Lanes over rows that hold nothing but flags.
class LanesOf {
 public:
  LanesOf(std::uint64_t capacity, std::uint32_t num_lanes)
      : memory_(Lanes::nbytes(num_lanes) / sizeof(std::uint64_t)),
        rows_(capacity * num_lanes * kPitch),
        lanes(reinterpret_cast<std::byte*>(memory_.data()), {capacity, num_lanes, kPitch}, 7) {}

  void push(std::uint32_t lane, std::uint8_t flags = 0) {
    rows_[lanes.next_place(lane) * kPitch] = std::byte{flags};
    lanes.commit(lane);
  }
  RowsView view() const {
    return {.rows = rows_.data(),
            .pitch = kPitch,
            .flags_offset = 0,
            .lane_capacity = lanes.control().lane_capacity,
            .lanes = lanes.states(),
            .num_lanes = lanes.control().num_lanes};
  }

 private:
  std::vector<std::uint64_t> memory_;
  std::vector<std::byte> rows_;

 public:
  Lanes lanes;
};

TEST(RowId, UnpackGivesWhatWasPacked) {
  for (const RowId id : {RowId{0, 0}, RowId{RowId::kMaxLanes - 1, RowId::kMaxSerial}}) {
    EXPECT_EQ(RowId::unpack(id.packed()), id);
    EXPECT_GE(static_cast<std::int64_t>(id.packed()), 0);
  }
}

TEST(Lanes, SlotIsSerialModuloCapacity) {
  for (const std::uint64_t capacity : {1u, 2u, 3u, 7u}) {
    LanesOf of(capacity, 2);
    for (std::uint64_t serial = 0; serial < 4 * capacity; ++serial) {
      EXPECT_EQ(of.lanes.next_place(1), capacity + serial % capacity);
      of.push(1);
      const RowsView view = of.view();
      for (std::uint64_t alive = view.begin(1); alive < view.end(1); ++alive) {
        EXPECT_EQ(view.slot({1, alive}), alive % capacity);
      }
    }
    EXPECT_EQ(of.view().size(0), 0u);
  }
}

TEST(Lanes, NewestRowsAreAlive) {
  LanesOf of(3, 2);
  for (int i = 0; i < 5; ++i) of.push(0);
  const RowsView view = of.view();
  EXPECT_EQ(view.size(0), 3u);
  EXPECT_FALSE(view.alive({0, 1}));
  EXPECT_TRUE(view.alive({0, 2}));
  EXPECT_TRUE(view.alive({0, 4}));
  EXPECT_FALSE(view.alive({0, 5}));
  EXPECT_FALSE(view.alive({1, 0}));
  EXPECT_FALSE(view.alive({2, 4}));
}

TEST(Lanes, ClearTakesOutAllAndKeepsCounting) {
  LanesOf of(3, 2);
  for (int i = 0; i < 5; ++i) of.push(0);
  of.push(1);
  of.lanes.clear();
  EXPECT_EQ(of.view().size(0), 0u);
  EXPECT_EQ(of.view().size(1), 0u);
  of.push(0);
  EXPECT_EQ(of.view().size(0), 1u);
  EXPECT_EQ(of.view().begin(0), 5u);
  EXPECT_EQ(of.view().slot({0, 5}), 5u % 3);
}

TEST(Lanes, SkipLeavesNothingAliveAndTheNextRowInItsSlot) {
  for (std::uint64_t count = 0; count < 8; ++count) {
    LanesOf of(3, 1);
    of.push(0);
    of.lanes.skip(0, count);
    EXPECT_EQ(of.view().size(0), 0u);
    EXPECT_EQ(of.lanes.next_place(0), (1 + count) % 3);
    of.push(0);
    EXPECT_EQ(of.view().slot({0, 1 + count}), (1 + count) % 3);
  }
}

TEST(Lanes, RewindExpectsTheRowsBeforePushed) {
  for (std::uint64_t pushed = 0; pushed < 9; ++pushed) {
    const std::uint64_t count = pushed < 3 ? pushed : 3;
    LanesOf of(3, 1);
    for (int i = 0; i < 2; ++i) of.push(0);
    of.lanes.rewind(0, pushed, count);
    for (std::uint64_t i = 0; i < count; ++i) {
      EXPECT_EQ(of.lanes.next_place(0), (pushed - count + i) % 3);
      of.push(0);
    }
    EXPECT_EQ(of.view().end(0), pushed);
    EXPECT_EQ(of.view().size(0), count);
  }
}

TEST(Lanes, RewindRefusesRowsThatCannotBe) {
  LanesOf of(3, 1);
  EXPECT_THROW(of.lanes.rewind(0, 9, 4), ValueError);
  EXPECT_THROW(of.lanes.rewind(0, 1, 2), ValueError);
  EXPECT_THROW(of.lanes.rewind(0, RowId::kMaxSerial + 1, 1), ValueError);
  EXPECT_EQ(of.view().end(0), 0u);
}

TEST(Lanes, DrawsAreCounted) {
  LanesOf of(3, 1);
  EXPECT_EQ(of.lanes.next_draw().seed, 7u);
  EXPECT_EQ(of.lanes.next_draw().draw, 0u);
  of.lanes.count_draw();
  EXPECT_EQ(of.lanes.next_draw().draw, 1u);
  of.lanes.set_draws(41);
  EXPECT_EQ(of.lanes.next_draw().draw, 41u);
}

TEST(RowsView, EpisodeContinuesUntilDoneTruncatedOrTheNewestRow) {
  LanesOf of(4, 2);
  of.push(0);
  of.push(0, kDone);
  of.push(0, kTruncated);
  of.push(0);
  of.push(1);  // the other lane's row is nobody's successor
  const RowsView view = of.view();
  EXPECT_TRUE(view.continues({0, 0}));
  EXPECT_FALSE(view.continues({0, 1}));
  EXPECT_FALSE(view.continues({0, 2}));
  EXPECT_FALSE(view.continues({0, 3}));
  EXPECT_FALSE(view.continues({0, 4}));
  of.push(0);
  EXPECT_TRUE(of.view().continues({0, 3}));
  EXPECT_FALSE(of.view().continues({0, 0})) << "it was overwritten";
}

TEST(RowExtent, CheckRefusesWhatIsOutOfRange) {
  EXPECT_NO_THROW((RowExtent{1, 1, kPitch}.check()));
  EXPECT_NO_THROW((RowExtent{RowExtent::kMaxLaneCapacity, RowId::kMaxLanes, kPitch}.check()));
  EXPECT_THROW((RowExtent{0, 1, kPitch}.check()), ValueError);
  EXPECT_THROW((RowExtent{RowExtent::kMaxLaneCapacity + 1, 1, kPitch}.check()), ValueError);
  EXPECT_THROW((RowExtent{1, 0, kPitch}.check()), ValueError);
  EXPECT_THROW((RowExtent{1, RowId::kMaxLanes + 1, kPitch}.check()), ValueError);
}

TEST(RowExtent, BytesThatOverflowAreTheMost) {
  EXPECT_EQ((RowExtent{10, 3, kPitch}.nbytes()), 480u);
  EXPECT_EQ((RowExtent{RowExtent::kMaxLaneCapacity, RowId::kMaxLanes, 1u << 20}.nbytes()),
            SIZE_MAX);
}

}  // namespace
}  // namespace velora
