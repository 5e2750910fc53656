#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "core/draw.h"
#include "core/errors.h"

namespace velora {
namespace {

using Values = std::vector<std::uint64_t>;

Values draw(DrawKey key, std::uint64_t bound, std::size_t count) {
  Values out(count);
  DrawScratch scratch;
  draw_distinct(key, bound, out, scratch);
  return out;
}

/// The rule itself: each element takes the first of its candidates that no earlier one took.
Values draw_by_rule(DrawKey key, std::uint64_t bound, std::size_t count) {
  Values taken;
  for (std::uint32_t element = 0; element < count; ++element) {
    std::uint32_t attempt = 0;
    std::uint64_t value;
    do {
      value = bounded(random_bits(key, element, attempt++), bound);
    } while (std::find(taken.begin(), taken.end(), value) != taken.end());
    taken.push_back(value);
  }
  return taken;
}

/// Words that one thread uses, with the interface of a device's atomics.
struct Plain {
  static std::uint64_t compare_exchange(std::uint64_t* word, std::uint64_t expected,
                                        std::uint64_t desired) {
    const std::uint64_t found = *word;
    if (found == expected) *word = desired;
    return found;
  }
  static std::uint32_t fetch_max(std::uint32_t* word, std::uint32_t value) {
    const std::uint32_t found = *word;
    *word = std::max(found, value);
    return found;
  }
  static void store(std::uint32_t* word, std::uint32_t value) { *word = value; }
  static std::uint32_t load(const std::uint32_t* word) { return *word; }
};

Values draw_by_proposals(DrawKey key, std::uint64_t bound,
                         const std::vector<std::uint32_t>& order) {
  const auto count = static_cast<std::uint32_t>(order.size());
  const std::uint32_t size = claim_table_size(count);
  std::vector<std::uint64_t> keys(size);
  std::vector<std::uint32_t> owners(size);
  std::vector<std::uint32_t> attempts(count);
  const ClaimTable table = {.keys = keys.data(), .owners = owners.data(), .mask = size - 1};
  for (const std::uint32_t element : order) {
    propose<Plain>(element, key, bound, table, attempts.data());
  }
  Values out;
  for (std::uint32_t i = 0; i < count; ++i) {
    out.push_back(bounded(random_bits(key, i, attempts[i]), bound));
  }
  return out;
}

TEST(Draw, EqualsTheRuleForAllSmallSizes) {
  for (std::uint64_t bound = 1; bound <= 40; ++bound) {
    for (std::size_t count = 0; count <= bound; ++count) {
      const DrawKey key = {.seed = bound, .draw = count};
      ASSERT_EQ(draw(key, bound, count), draw_by_rule(key, bound, count)) << bound << ' ' << count;
    }
  }
}

TEST(Draw, EqualsTheRuleForLargeBounds) {
  for (const std::uint64_t bound : {std::uint64_t{1000}, (std::uint64_t{1} << 32) + 1,
                                    std::uint64_t{1} << 47, (std::uint64_t{1} << 63) + 5}) {
    const DrawKey key = {.seed = ~std::uint64_t{0}, .draw = std::uint64_t{1} << 40};
    ASSERT_EQ(draw(key, bound, 300), draw_by_rule(key, bound, 300)) << bound;
  }
}

TEST(Draw, WholeRangeIsAPermutation) {
  for (const std::size_t bound : {1, 2, 15, 16, 17, 255, 256, 257, 4097}) {
    Values values = draw({.seed = 3, .draw = 4}, bound, bound);
    std::sort(values.begin(), values.end());
    Values expected(bound);
    std::iota(expected.begin(), expected.end(), std::uint64_t{0});
    ASSERT_EQ(values, expected) << bound;
  }
}

TEST(Draw, MoreThanTheRangeThrows) {
  DrawScratch scratch;
  Values out(11);
  EXPECT_THROW(draw_distinct({.seed = 0, .draw = 0}, 10, out, scratch), ValueError);
  Values one(1);
  EXPECT_THROW(draw_distinct({.seed = 0, .draw = 0}, 0, one, scratch), ValueError);
}

TEST(Draw, ScratchOfAnEarlierDrawChangesNothing) {
  DrawScratch scratch;
  for (const std::size_t count : {1000, 3, 17, 500, 1, 2000}) {
    const DrawKey key = {.seed = 5, .draw = count};
    Values out(count);
    draw_distinct(key, 2000, out, scratch);
    ASSERT_EQ(out, draw(key, 2000, count)) << count;
  }
}

TEST(Draw, PrefixOfADrawIsTheShorterDraw) {
  const DrawKey key = {.seed = 8, .draw = 9};
  const Values whole = draw(key, 50, 50);
  for (std::size_t count = 0; count <= 50; ++count) {
    ASSERT_EQ(draw(key, 50, count),
              Values(whole.begin(), whole.begin() + static_cast<long>(count)));
  }
}

TEST(Propose, AnyOrderOfElementsGivesTheSequentialDraw) {
  std::mt19937 engine(1);
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t bound = 1 + engine() % 60;
    const auto count = static_cast<std::uint32_t>(1 + engine() % bound);
    const DrawKey key = {.seed = engine(), .draw = engine()};
    std::vector<std::uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), engine);
    ASSERT_EQ(draw_by_proposals(key, bound, order), draw_by_rule(key, bound, count));
    std::sort(order.rbegin(), order.rend());
    ASSERT_EQ(draw_by_proposals(key, bound, order), draw_by_rule(key, bound, count));
  }
}

TEST(Propose, TableIsAPowerOfTwoAndAtMostHalfFull) {
  for (std::uint32_t count = 0; count < 5000; ++count) {
    const std::uint32_t size = claim_table_size(count);
    ASSERT_EQ(size & (size - 1), 0u);
    ASSERT_GE(size, 2 * count);
    ASSERT_LE(size, std::max(16u, 4 * count));
  }
  constexpr std::uint32_t kLargest = std::numeric_limits<std::uint32_t>::max() / 4;
  EXPECT_GE(claim_table_size(kLargest), 2 * kLargest);
}

}  // namespace
}  // namespace velora
