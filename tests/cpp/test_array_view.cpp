#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/values/array_view.h"

namespace velora {
namespace {

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, bool>) return DType::kBool;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::kUInt8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return DType::kUInt16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return DType::kUInt32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return DType::kUInt64;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::kInt8;
  if constexpr (std::is_same_v<T, std::int16_t>) return DType::kInt16;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::kInt32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::kInt64;
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  return DType::kFloat64;
}

template <typename T>
ArrayView view_of(const T& value, DType dtype = dtype_of<T>()) {
  ArrayView view;
  view.data = reinterpret_cast<const std::byte*>(&value);
  view.dtype = dtype;
  return view;
}

/// Strides in elements.
template <typename T>
ArrayView view_of(const T* data, std::vector<std::int64_t> shape,
                  std::vector<std::int64_t> strides) {
  ArrayView view;
  view.data = reinterpret_cast<const std::byte*>(data);
  view.dtype = dtype_of<T>();
  view.ndim = static_cast<int>(shape.size());
  for (std::size_t d = 0; d < shape.size(); ++d) {
    view.shape[d] = shape[d];
    view.strides[d] = strides[d] * static_cast<std::int64_t>(sizeof(T));
  }
  return view;
}

template <typename To, typename From>
Misfit convert(From from, To* to) {
  return copy_elements(view_of(from), dtype_of<To>(), reinterpret_cast<std::byte*>(to));
}

template <typename To, typename From>
Misfit misfit(From from) {
  To to;
  return convert(from, &to);
}

template <typename To, typename From>
void expect_exact(From from, To expected) {
  To to;
  ASSERT_EQ(convert(from, &to), Misfit::kNone) << +from;
  EXPECT_EQ(to, expected) << +from;
}

template <typename From>
std::uint16_t to_half(From value, DType dtype, Misfit expected = Misfit::kNone) {
  std::uint16_t bits = 0;
  EXPECT_EQ(copy_elements(view_of(value), dtype, reinterpret_cast<std::byte*>(&bits)), expected);
  return bits;
}

float from_half(std::uint16_t bits, DType dtype) {
  float value = 0;
  EXPECT_EQ(
      copy_elements(view_of(bits, dtype), DType::kFloat32, reinterpret_cast<std::byte*>(&value)),
      Misfit::kNone);
  return value;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(CopyElements, IntegersThatFitArePassed) {
  expect_exact<std::uint8_t>(std::int64_t{255}, 255);
  expect_exact<std::int8_t>(std::int64_t{-128}, -128);
  expect_exact<std::int64_t>(std::uint64_t{1} << 62, std::int64_t{1} << 62);
  expect_exact<std::uint64_t>(std::int64_t{7}, std::uint64_t{7});
  expect_exact<bool>(std::int64_t{1}, true);
  expect_exact<std::int32_t>(true, 1);
}

TEST(CopyElements, IntegersOutOfRangeAreRefused) {
  EXPECT_EQ(misfit<std::uint8_t>(std::int64_t{256}), Misfit::kRange);
  EXPECT_EQ(misfit<std::uint8_t>(std::int8_t{-1}), Misfit::kRange);
  EXPECT_EQ(misfit<std::int8_t>(std::uint8_t{128}), Misfit::kRange);
  EXPECT_EQ(misfit<std::int64_t>(std::uint64_t{1} << 63), Misfit::kRange);
  EXPECT_EQ(misfit<std::uint64_t>(std::int64_t{-1}), Misfit::kRange);
  EXPECT_EQ(misfit<bool>(std::int64_t{2}), Misfit::kRange);
  EXPECT_EQ(misfit<bool>(std::uint8_t{255}), Misfit::kRange);
}

TEST(CopyElements, FloatsToIntegersMustBeWholeAndInRange) {
  expect_exact<std::int64_t>(-3.0, std::int64_t{-3});
  expect_exact<std::int64_t>(-0x1p63, std::numeric_limits<std::int64_t>::min());
  expect_exact<std::uint64_t>(0x1.fffffffffffffp63, std::uint64_t{0xFFFFFFFFFFFFF800});
  expect_exact<bool>(1.0, true);
  EXPECT_EQ(misfit<std::int64_t>(0.5), Misfit::kFraction);
  EXPECT_EQ(misfit<std::int64_t>(0x1p63), Misfit::kRange);
  EXPECT_EQ(misfit<std::uint64_t>(0x1p64), Misfit::kRange);
  EXPECT_EQ(misfit<std::uint8_t>(-1.0f), Misfit::kRange);
  EXPECT_EQ(misfit<std::int8_t>(128.0f), Misfit::kRange);
  EXPECT_EQ(misfit<std::int64_t>(kNaN), Misfit::kRange);
  EXPECT_EQ(misfit<std::int64_t>(kInfinity), Misfit::kRange);
  EXPECT_EQ(misfit<std::int64_t>(-kInfinity), Misfit::kRange);
}

TEST(CopyElements, IntegersToFloatsAreRoundedOnce) {
  expect_exact<float>(std::int64_t{16777216}, 16777216.0f);
  expect_exact<float>(std::int64_t{16777217}, 16777216.0f);
  expect_exact<float>(std::int64_t{-16777219}, -16777220.0f);
  expect_exact<float>(std::numeric_limits<std::int64_t>::min(), -0x1p63f);
  expect_exact<float>(std::numeric_limits<std::int64_t>::max(), 0x1p63f);
  expect_exact<float>(std::numeric_limits<std::uint64_t>::max(), 0x1p64f);
  // Just above the middle of two floats, by less than a double tells.
  expect_exact<float>((std::int64_t{1} << 62) + (std::int64_t{1} << 38) + 1, 0x1.000002p62f);
}

TEST(CopyElements, IntegersToShortFloatsAreRoundedOnce) {
  const std::int64_t middle = (std::int64_t{1} << 62) + (std::int64_t{1} << 54);
  EXPECT_EQ(from_half(to_half(middle, DType::kBFloat16), DType::kBFloat16), 0x1p62f);
  EXPECT_EQ(from_half(to_half(middle + 1, DType::kBFloat16), DType::kBFloat16), 0x1.02p62f);
  EXPECT_EQ(from_half(to_half(-middle - 1, DType::kBFloat16), DType::kBFloat16), -0x1.02p62f);
  EXPECT_EQ(from_half(to_half(std::int64_t{2049}, DType::kFloat16), DType::kFloat16), 2048.0f);
  EXPECT_EQ(from_half(to_half(std::int64_t{2051}, DType::kFloat16), DType::kFloat16), 2052.0f);
}

TEST(CopyElements, DoublesToFloatsAreRoundedButNotToInfinity) {
  expect_exact<float>(0.1, 0.1f);
  expect_exact<float>(1e-60, 0.0f);
  expect_exact<float>(static_cast<double>(std::numeric_limits<float>::max()),
                      std::numeric_limits<float>::max());
  expect_exact<float>(-std::numeric_limits<double>::infinity(), -kInfinity);
  EXPECT_EQ(misfit<float>(1e39), Misfit::kRange);
  EXPECT_EQ(misfit<float>(-std::numeric_limits<double>::max()), Misfit::kRange);
  float to = 0;
  EXPECT_EQ(convert(std::numeric_limits<double>::quiet_NaN(), &to), Misfit::kNone);
  EXPECT_TRUE(std::isnan(to));
}

TEST(CopyElements, EveryShortFloatSurvivesTheWayToFloatAndBack) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const float value = from_half(static_cast<std::uint16_t>(bits), dtype);
      const std::uint16_t back = to_half(value, dtype);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(from_half(back, dtype))) << bits;
      } else {
        ASSERT_EQ(back, bits);
      }
    }
  }
}

TEST(CopyElements, BrainFloatIsTheUpperHalfOfAFloat) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float expected = std::bit_cast<float>(bits << 16);
    const float value = from_half(static_cast<std::uint16_t>(bits), DType::kBFloat16);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value));
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(value), bits << 16);
    }
  }
}

TEST(CopyElements, HalfHasItsKnownValues) {
  EXPECT_EQ(to_half(1.0f, DType::kFloat16), 0x3C00);
  EXPECT_EQ(to_half(-2.0f, DType::kFloat16), 0xC000);
  EXPECT_EQ(to_half(65504.0f, DType::kFloat16), 0x7BFF);
  EXPECT_EQ(to_half(0x1p-14f, DType::kFloat16), 0x0400);
  EXPECT_EQ(to_half(0x1p-24f, DType::kFloat16), 0x0001);
  EXPECT_EQ(to_half(0x1p-26f, DType::kFloat16), 0x0000);
  EXPECT_EQ(to_half(-0.0f, DType::kFloat16), 0x8000);
  EXPECT_EQ(to_half(kInfinity, DType::kFloat16), 0x7C00);
}

TEST(CopyElements, ShortFloatsRoundToNearestAndTiesToEven) {
  // Between neighbours a and b the middle goes to the even one, what is beside it to the nearer.
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const int infinity = dtype == DType::kFloat16 ? 0x7C00 : 0x7F80;
    for (int bits = 0; bits + 1 < infinity; ++bits) {
      const float low = from_half(static_cast<std::uint16_t>(bits), dtype);
      const float high = from_half(static_cast<std::uint16_t>(bits + 1), dtype);
      const float middle = low + (high - low) / 2;
      ASSERT_EQ(to_half(middle, dtype), bits + bits % 2);
      ASSERT_EQ(to_half(std::nextafter(middle, low), dtype), bits);
      ASSERT_EQ(to_half(std::nextafter(middle, high), dtype), bits + 1);
    }
  }
}

TEST(CopyElements, NumbersBeyondShortFloatsAreRefused) {
  to_half(65520.0f, DType::kFloat16, Misfit::kRange);
  to_half(-1e30f, DType::kFloat16, Misfit::kRange);
  to_half(std::numeric_limits<float>::max(), DType::kBFloat16, Misfit::kRange);
  EXPECT_EQ(to_half(65519.0f, DType::kFloat16), 0x7BFF);
}

TEST(CopyElements, StridesAreFollowedInRowMajorOrder) {
  std::vector<std::int32_t> in(24);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::int32_t>(i);
  const struct {
    std::int64_t offset;
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides;
    std::vector<std::int64_t> expected;
  } cases[] = {
      {0, {2, 3}, {3, 1}, {0, 1, 2, 3, 4, 5}},
      {0, {3, 2}, {1, 3}, {0, 3, 1, 4, 2, 5}},
      {5, {3}, {-2}, {5, 3, 1}},
      {23, {2, 2}, {-6, -1}, {23, 22, 17, 16}},
      {4, {2, 2}, {0, 0}, {4, 4, 4, 4}},
      {0, {2, 1, 2}, {12, 999, 4}, {0, 4, 12, 16}},
      {1, {1, 1}, {-777, 888}, {1}},
      {0, {2, 2, 2}, {12, 1, 6}, {0, 6, 1, 7, 12, 18, 13, 19}},
      {9, {}, {}, {9}},
  };
  for (const auto& each : cases) {
    const ArrayView view = view_of(in.data() + each.offset, each.shape, each.strides);
    std::vector<std::int64_t> wide(each.expected.size());
    ASSERT_EQ(copy_elements(view, DType::kInt64, reinterpret_cast<std::byte*>(wide.data())),
              Misfit::kNone);
    EXPECT_EQ(wide, each.expected);
    std::vector<std::int32_t> same(each.expected.size());
    ASSERT_EQ(copy_elements(view, DType::kInt32, reinterpret_cast<std::byte*>(same.data())),
              Misfit::kNone);
    EXPECT_EQ(std::vector<std::int64_t>(same.begin(), same.end()), each.expected);
  }
}

TEST(CopyElements, UnalignedElementsAreRead) {
  std::vector<std::byte> bytes(3 * sizeof(double) + 1);
  const double values[] = {1.5, -2.5, 3.5};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  ArrayView view = view_of(values, {3}, {1});
  view.data = bytes.data() + 1;
  std::vector<float> out(3);
  ASSERT_EQ(copy_elements(view, DType::kFloat32, reinterpret_cast<std::byte*>(out.data())),
            Misfit::kNone);
  EXPECT_EQ(out, (std::vector<float>{1.5f, -2.5f, 3.5f}));
}

TEST(CopyElements, OneBadElementAnywhereIsFound) {
  for (std::size_t bad = 0; bad < 33; ++bad) {
    std::vector<double> in(33, 1.0);
    std::vector<float> out(33);
    auto* const bytes = reinterpret_cast<std::byte*>(out.data());
    in[bad] = 1e39;
    EXPECT_EQ(copy_elements(view_of(in.data(), {33}, {1}), DType::kFloat32, bytes), Misfit::kRange);
    in[bad] = 0.5;
    EXPECT_EQ(copy_elements(view_of(in.data(), {33}, {1}), DType::kUInt8, bytes),
              Misfit::kFraction);
  }
}

TEST(ArrayView, CountsItsElements) {
  const float value = 0;
  EXPECT_EQ(view_of(value).num_elements(), 1);
  EXPECT_EQ(view_of(&value, {2, 3, 4}, {12, 4, 1}).num_elements(), 24);
  EXPECT_EQ(view_of(&value, {2, 0}, {1, 1}).num_elements(), 0);
}

TEST(ArrayView, ContiguousIgnoresStridesOfExtentOne) {
  const float value = 0;
  EXPECT_TRUE(view_of(value).is_contiguous());
  EXPECT_TRUE(view_of(&value, {2, 3}, {3, 1}).is_contiguous());
  EXPECT_TRUE(view_of(&value, {1, 3, 1}, {-5, 1, 99}).is_contiguous());
  EXPECT_FALSE(view_of(&value, {3, 2}, {1, 3}).is_contiguous());
  EXPECT_FALSE(view_of(&value, {3}, {2}).is_contiguous());
  EXPECT_FALSE(view_of(&value, {3}, {-1}).is_contiguous());
  EXPECT_FALSE(view_of(&value, {3}, {0}).is_contiguous());
}

TEST(ArrayView, ShowsItsShapeAsPythonDoes) {
  const float value = 0;
  EXPECT_EQ(view_of(value).shape_string(), "()");
  EXPECT_EQ(view_of(&value, {3}, {1}).shape_string(), "(3,)");
  EXPECT_EQ(view_of(&value, {3, 84, 84}, {1, 1, 1}).shape_string(), "(3, 84, 84)");
}

}  // namespace
}  // namespace velora
