#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/rows/row_layout.h"
#include "core/values/errors.h"

namespace velora {
namespace {

Field field(std::string name, Role role, DType dtype, std::vector<std::int64_t> shape) {
  return {.name = std::move(name), .role = role, .dtype = dtype, .shape = std::move(shape)};
}

std::vector<Field> plain_fields(std::int64_t features) {
  return {field("state", Role::kState, DType::kFloat32, {features}),
          field("action", Role::kAction, DType::kInt64, {1}),
          field("reward", Role::kReward, DType::kFloat32, {1}),
          field("next_state", Role::kNextState, DType::kFloat32, {features}),
          field("extra", Role::kExtra, DType::kUInt8, {3})};
}

struct Span {
  std::size_t begin;
  std::size_t end;
};

void expect_sound(const RowLayout& layout) {
  std::vector<Span> spans = {{layout.flags_offset(), layout.flags_offset() + 1}};
  for (const Field& each : layout.fields()) {
    EXPECT_EQ(each.offset % size_of(each.dtype), 0u) << each.name;
    spans.push_back({each.offset, each.offset + each.nbytes});
  }
  std::sort(spans.begin(), spans.end(), [](Span a, Span b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < spans.size(); ++i) EXPECT_LE(spans[i - 1].end, spans[i].begin);
  EXPECT_LE(spans.back().end, layout.pitch());
  EXPECT_EQ(layout.pitch() % 16, 0u);
}

TEST(RowLayout, FieldsKeepTheirOrderInTheListAndTheRowHasTheirRoles) {
  std::vector<Field> fields = plain_fields(3);
  std::reverse(fields.begin(), fields.end());
  const RowLayout layout(fields);
  ASSERT_EQ(layout.fields().size(), 5u);
  EXPECT_EQ(layout.fields()[0].name, "extra");
  EXPECT_EQ(layout.fields()[4].name, "state");
  const auto offset = [&](int i) { return layout.fields()[static_cast<std::size_t>(i)].offset; };
  EXPECT_EQ(offset(4), 0u);               // state
  EXPECT_EQ(offset(3), 16u);              // action, aligned to 8
  EXPECT_EQ(offset(2), 24u);              // reward
  EXPECT_EQ(layout.flags_offset(), 28u);  // between reward and next state
  EXPECT_EQ(offset(1), 32u);              // next state
  EXPECT_EQ(offset(0), 44u);              // extra
  EXPECT_EQ(layout.pitch(), 48u);
}

TEST(RowLayout, SizesCountAllElements) {
  const RowLayout layout({field("image", Role::kState, DType::kUInt8, {4, 84, 84}),
                          field("half", Role::kExtra, DType::kFloat16, {2, 3})});
  EXPECT_EQ(layout.fields()[0].nbytes, 4u * 84 * 84);
  EXPECT_EQ(layout.fields()[1].nbytes, 12u);
}

TEST(RowLayout, PitchIsWholeLinesWhereThatCostsAtMostAnEighth) {
  for (std::int64_t features = 1; features < 400; ++features) {
    const RowLayout layout(plain_fields(features));
    expect_sound(layout);
    const Field& last = layout.fields()[4];
    const std::size_t used = last.offset + last.nbytes;
    const std::size_t wide = (used + 15) / 16 * 16;
    const std::size_t lines = (used + 63) / 64 * 64;
    EXPECT_EQ(layout.pitch(), 8 * (lines - wide) <= wide ? lines : wide) << features;
  }
}

TEST(RowLayout, FlagsOfARowThatEndsWithTheRewardHaveTheirOwnByte) {
  const RowLayout layout({field("state", Role::kState, DType::kUInt8, {15}),
                          field("reward", Role::kReward, DType::kUInt8, {1})});
  EXPECT_EQ(layout.flags_offset(), 16u);
  EXPECT_EQ(layout.pitch(), 32u);
  expect_sound(layout);
}

TEST(RowLayout, AnyFieldsAreAlignedAndApart) {
  std::mt19937 engine(3);
  for (int round = 0; round < 500; ++round) {
    std::vector<Field> fields;
    const std::size_t count = engine() % 12;
    for (std::size_t i = 0; i < count; ++i) {
      const auto role = static_cast<Role>(engine() % 5);
      const auto dtype = static_cast<DType>(engine() % (kDTypeCount - 1));
      std::vector<std::int64_t> shape(engine() % 4);
      for (auto& extent : shape) extent = 1 + engine() % 5;
      fields.push_back(field("field " + std::to_string(i), role, dtype, std::move(shape)));
    }
    expect_sound(RowLayout(std::move(fields)));
  }
}

TEST(RowLayout, FieldWithoutElementsThrowsItsName) {
  for (const std::int64_t extent : {0, -1}) {
    try {
      RowLayout layout({field("camera", Role::kState, DType::kUInt8, {3, extent})});
      ADD_FAILURE() << "accepted an extent of " << extent;
    } catch (const ValueError& error) {
      EXPECT_EQ(std::string(error.what()).find("camera: "), 0u) << error.what();
    }
  }
}

TEST(RowLayout, RowBeyondTheLargestPitchThrows) {
  constexpr auto kMax = static_cast<std::int64_t>(RowLayout::kMaxPitch);
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  EXPECT_THROW(RowLayout({field("a", Role::kState, DType::kUInt8, {kMax + 1})}), ValueError);
  EXPECT_THROW(RowLayout({field("a", Role::kState, DType::kInt64, {kMax / 8 + 1})}), ValueError);
  EXPECT_THROW(RowLayout({field("a", Role::kState, DType::kUInt8, {kHuge, kHuge, 4})}), ValueError);
  EXPECT_THROW(RowLayout({field("a", Role::kState, DType::kUInt8, {kMax / 2}),
                          field("b", Role::kNextState, DType::kUInt8, {kMax / 2 + 1})}),
               ValueError);
}

std::vector<Field> transition_fields() {
  return {field("image", Role::kState, DType::kUInt8, {4, 5}),
          field("speed", Role::kState, DType::kFloat32, {2}),
          field("reward", Role::kReward, DType::kFloat32, {1}),
          field("next image", Role::kNextState, DType::kUInt8, {4, 5}),
          field("next speed", Role::kNextState, DType::kFloat32, {2}),
          field("extra", Role::kExtra, DType::kUInt8, {3})};
}

TEST(RowLayout, CompactRowsHaveLinksInPlaceOfTheNextState) {
  const RowLayout layout(transition_fields(), {.compact = true});
  const auto& fields = layout.fields();
  EXPECT_TRUE(layout.compact());
  EXPECT_EQ(layout.flags_offset(), 32u);
  EXPECT_EQ(layout.links_offset(), 36u);
  EXPECT_EQ(fields[5].offset, 44u) << "extra, after two links";
  EXPECT_EQ(layout.pitch(), 48u);
  EXPECT_EQ(layout.block_bytes(), 64u);
  for (const std::size_t state : {0u, 1u}) {
    EXPECT_EQ(fields[state].block_offset, fields[state].offset) << "a block begins as a row";
    EXPECT_EQ(fields[state + 3].offset, fields[state].offset);
    EXPECT_EQ(fields[state + 3].block_offset, fields[state].block_offset);
    EXPECT_EQ(fields[state].frames, 1u);
  }
}

TEST(RowLayout, RowsOfStacksHoldOneFrame) {
  for (const std::uint32_t frames : {2u, 4u}) {
    const RowLayout layout(transition_fields(), {.compact = true, .frame_stack = frames});
    const auto& fields = layout.fields();
    EXPECT_EQ(layout.frame_stack(), frames);
    EXPECT_EQ(fields[0].frames, frames);
    EXPECT_EQ(fields[3].frames, frames);
    EXPECT_EQ(fields[1].frames, 1u) << "has no dimension to spare";
    EXPECT_EQ(fields[0].nbytes, 20u) << "of the whole stack";
    EXPECT_EQ(fields[1].offset, (20 / frames + 3) / 4 * 4);
    EXPECT_EQ(fields[1].block_offset, 20u);
    EXPECT_EQ(layout.block_bytes(), 64u);
  }
}

TEST(RowLayout, StacksThatCannotBeThrow) {
  const auto refuses = [](std::vector<Field> fields, ObservationStorage observations,
                          const std::string& begin) {
    try {
      RowLayout layout(std::move(fields), observations);
      ADD_FAILURE() << "accepted, instead of " << begin;
    } catch (const ValueError& error) {
      EXPECT_EQ(std::string(error.what()).find(begin), 0u) << error.what();
    }
  };
  refuses(transition_fields(), {.compact = true, .frame_stack = 3}, "image: ");
  refuses(transition_fields(), {.compact = true, .frame_stack = 0}, "frame_stack: ");
  refuses(transition_fields(), {.compact = true, .frame_stack = 65}, "frame_stack: ");
  refuses(transition_fields(), {.compact = false, .frame_stack = 2}, "frame_stack: ");
  refuses({field("reward", Role::kReward, DType::kFloat32, {1})}, {.compact = true}, "compact: ");
  refuses({field("reward", Role::kReward, DType::kFloat32, {1})},
          {.compact = true, .frame_stack = 2}, "compact: ");
  std::vector<Field> fields = transition_fields();
  fields[3].shape = {20};
  refuses(fields, {.compact = true}, "next image: ");
  fields = transition_fields();
  fields[4].dtype = DType::kInt32;
  refuses(fields, {.compact = true}, "next speed: ");
  fields = transition_fields();
  fields.erase(fields.begin() + 4);
  refuses(fields, {.compact = true}, "speed: ");
  fields = transition_fields();
  fields.erase(fields.begin() + 1);
  refuses(fields, {.compact = true}, "next speed: ");
}

}  // namespace
}  // namespace velora
