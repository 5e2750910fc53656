#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <set>

#include "core/random/philox.h"

namespace velora {
namespace {

using Words = std::array<std::uint32_t, 4>;

Words philox(const Words& counter, std::uint32_t key0, std::uint32_t key1) {
  const Philox4 out = philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, key0, key1);
  return {out.word[0], out.word[1], out.word[2], out.word[3]};
}

// The known answers that the authors publish with Random123.
TEST(Philox, ZerosGiveThePublishedWords) {
  EXPECT_EQ(philox({0, 0, 0, 0}, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

TEST(Philox, OnesGiveThePublishedWords) {
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, kOnes, kOnes),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Philox, DigitsOfPiGiveThePublishedWords) {
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, TwoElementsShareTheWordsOfTheirCounter) {
  constexpr DrawKey kKey = {.seed = 0x299f31d0a4093822, .draw = 0x0370734413198a2e};
  const RandomPair pair = random_pair(kKey, 0x243f6a88, 0x85a308d3);
  EXPECT_EQ(pair.bits[0], 0x94fdccebd16cfe09);
  EXPECT_EQ(pair.bits[1], 0x24126ea15001e420);
  EXPECT_EQ(random_bits(kKey, 2 * 0x243f6a88u, 0x85a308d3), pair.bits[0]);
  EXPECT_EQ(random_bits(kKey, 2 * 0x243f6a88u + 1, 0x85a308d3), pair.bits[1]);
}

TEST(Philox, EachPartOfTheNameChangesTheBits) {
  std::set<std::uint64_t> bits;
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t wide = std::uint64_t{1} << bit;
    bits.insert(random_bits({.seed = wide, .draw = 0}, 0, 0));
    bits.insert(random_bits({.seed = 0, .draw = wide}, 0, 0));
  }
  for (int bit = 0; bit < 32; ++bit) {
    const std::uint32_t narrow = std::uint32_t{1} << bit;
    bits.insert(random_bits({.seed = 0, .draw = 0}, narrow, 0));
    bits.insert(random_bits({.seed = 0, .draw = 0}, 0, narrow));
  }
  bits.insert(random_bits({.seed = 0, .draw = 0}, 0, 0));
  EXPECT_EQ(bits.size(), 64u + 64u + 32u + 32u + 1u);
}

TEST(Bounded, EndsOfTheBitsGiveEndsOfTheRange) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  for (const std::uint64_t bound :
       {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{10}, std::uint64_t{1} << 40, kMax}) {
    EXPECT_EQ(bounded(0, bound), 0u);
    EXPECT_EQ(bounded(kMax, bound), bound - 1);
  }
}

TEST(Bounded, EqualPartsOfTheBitsGiveEachValue) {
  // With a bound of 2**k the value is the top k bits.
  for (std::uint64_t value = 0; value < 16; ++value) {
    EXPECT_EQ(bounded(value << 60, 16), value);
    EXPECT_EQ(bounded((value << 60) + ((std::uint64_t{1} << 60) - 1), 16), value);
  }
}

TEST(Bounded, BoundNearTheTopIsNotBiased) {
  // A modulo would put two thirds of the draws into the lower half of this range.
  constexpr std::uint64_t kBound = std::uint64_t{3} << 62;
  constexpr int kDraws = 100000;
  int lower = 0;
  for (std::uint32_t i = 0; i < kDraws; ++i) {
    lower += bounded(random_bits({.seed = 1, .draw = 2}, i, 0), kBound) < kBound / 2 ? 1 : 0;
  }
  // Five standard deviations of a fair coin.
  EXPECT_NEAR(lower, kDraws / 2, 5 * 158);
}

}  // namespace
}  // namespace velora
