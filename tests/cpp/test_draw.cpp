#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "core/kernels/draw.h"
#include "core/random/distinct_draw.h"
#include "core/values/errors.h"
#include "emulated_group.h"

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

/// Of a draw of most: the ranks of a draw by the rule from the wider range.
Values draw_most_by_rule(DrawKey key, std::uint64_t bound, std::size_t count) {
  const std::uint64_t range = claim_table_size(static_cast<std::uint32_t>(count));
  const Values wide = draw_by_rule(key, range, bound);
  Values sorted = wide;
  std::sort(sorted.begin(), sorted.end());
  Values ranks;
  for (std::size_t i = 0; i < count; ++i) {
    const auto rank = std::lower_bound(sorted.begin(), sorted.end(), wide[i]) - sorted.begin();
    ranks.push_back(static_cast<std::uint64_t>(rank));
  }
  return ranks;
}

Values expected_draw(DrawKey key, std::uint64_t bound, std::size_t count) {
  return draws_most(count, bound) ? draw_most_by_rule(key, bound, count)
                                  : draw_by_rule(key, bound, count);
}

Values draw_in_threads(DrawKey key, std::uint64_t bound, std::uint32_t count,
                       std::uint32_t threads) {
  std::vector<std::uint64_t> memory(DrawSpace::nbytes(count) / sizeof(std::uint64_t) + 2);
  const std::uint64_t zone = 0xA5A5A5A5A5A5A5A5;
  memory.back() = zone;
  const DrawSpace space = DrawSpace::in(reinterpret_cast<std::byte*>(memory.data()), count);
  const testing::EmulatedGroup group(0, 1, threads, key.seed ^ key.draw);
  device::draw(group, key, bound, count, space);
  EXPECT_EQ(memory.back(), zone);
  return {space.drawn, space.drawn + count};
}

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
      ASSERT_EQ(draw(key, bound, count), expected_draw(key, bound, count)) << bound << ' ' << count;
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

TEST(Draw, EqualsTheRuleHoweverMuchOfTheRangeIsDrawn) {
  // Marks and tables, with few elements that clash and with many.
  for (const std::uint64_t bound : {500u, 4096u, 70'000u, 1'000'000u}) {
    for (const std::size_t count : {1u, 15u, 130u, 380u, 900u, 2000u, 3100u}) {
      if (count > bound) continue;
      const DrawKey key = {.seed = bound, .draw = count};
      ASSERT_EQ(draw(key, bound, count), expected_draw(key, bound, count)) << bound << ' ' << count;
    }
  }
}

TEST(Draw, MostOfTheRangeIsMoreThanThreeQuarters) {
  for (std::uint64_t bound = 1; bound < 500; ++bound) {
    for (std::uint64_t count = 0; count <= bound; ++count) {
      ASSERT_EQ(draws_most(count, bound), count > bound - bound / 4);
      if (!draws_most(count, bound)) continue;
      const auto drawn = static_cast<std::uint32_t>(count);
      ASSERT_LE(bound, most_elements(drawn));
      ASSERT_LE(3 * bound, 2 * std::uint64_t{claim_table_size(drawn)});
    }
  }
  EXPECT_FALSE(draws_most(kMaxDraw, std::uint64_t{1} << 63));
}

TEST(Draw, MostOfTheRangeIsDistinctAndInRange) {
  for (const std::size_t bound : {1, 2, 15, 16, 17, 255, 256, 257, 4097, 100'000}) {
    for (const std::size_t count : {bound, bound - bound / 8, bound - bound / 5}) {
      Values values = draw({.seed = 3, .draw = count}, bound, count);
      std::sort(values.begin(), values.end());
      ASSERT_EQ(std::unique(values.begin(), values.end()), values.end()) << bound;
      ASSERT_LT(values.back(), bound);
    }
  }
}

TEST(Draw, ThreadsTogetherDrawWhatOneDoes) {
  std::mt19937 engine(2);
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t bound = 1 + engine() % 700;
    // Half of them of most values.
    const std::uint64_t least = round % 2 == 0 ? 1 : bound - bound / 4;
    const auto count = static_cast<std::uint32_t>(least + engine() % (bound - least + 1));
    const DrawKey key = {.seed = engine(), .draw = engine()};
    const auto threads = static_cast<std::uint32_t>(1 + engine() % 40);
    ASSERT_EQ(draw_in_threads(key, bound, count, threads), draw(key, bound, count))
        << bound << ' ' << count;
  }
}

TEST(Draw, ThreadsTogetherDrawAWholeRangeOfManyLevels) {
  const DrawKey key = {.seed = 6, .draw = 7};
  ASSERT_EQ(draw_in_threads(key, 9000, 9000, 64), draw(key, 9000, 9000));
}

/// The sum of (found - expected)^2 / expected over cells that all draws fall into alike.
double chi_square(const std::map<Values, int>& found, std::size_t cells, double draws) {
  const double expected = draws / static_cast<double>(cells);
  double sum = static_cast<double>(cells - found.size()) * expected;
  for (const auto& [values, times] : found)
    sum += (times - expected) * (times - expected) / expected;
  return sum;
}

/// Five standard deviations above its mean, which is the number of cells less one.
double bound_of_chi_square(std::size_t cells) {
  const double degrees = static_cast<double>(cells) - 1;
  return degrees + 5 * std::sqrt(2 * degrees);
}

struct Orders {
  std::size_t bound;
  std::size_t count;
  std::size_t cells;  // orders of so many values
};

// By the rule, and of most values.
constexpr Orders kOrders[] = {{4, 3, 24},  {4, 4, 24}, {5, 4, 120},  {5, 5, 120},
                              {6, 6, 720}, {9, 2, 72}, {8, 7, 40320}};

TEST(Draw, EveryOrderIsEquallyLikely) {
  for (const Orders& orders : kOrders) {
    const std::size_t draws = 50 * orders.cells;
    std::map<Values, int> found;
    for (std::size_t i = 0; i < draws; ++i) {
      ++found[draw({.seed = 11, .draw = i}, orders.bound, orders.count)];
    }
    EXPECT_LT(chi_square(found, orders.cells, static_cast<double>(draws)),
              bound_of_chi_square(orders.cells))
        << orders.count << " of " << orders.bound;
  }
}

TEST(Draw, EveryElementOfMostHasEveryValueAlike) {
  constexpr std::size_t kBound = 40;
  constexpr std::size_t kCount = 33;
  constexpr std::size_t kDraws = 20'000;
  std::map<Values, int> found;
  for (std::size_t i = 0; i < kDraws; ++i) {
    const Values values = draw({.seed = 12, .draw = i}, kBound, kCount);
    for (std::size_t element = 0; element < kCount; ++element) ++found[{element, values[element]}];
  }
  EXPECT_LT(chi_square(found, kBound * kCount, static_cast<double>(kDraws * kCount)),
            bound_of_chi_square(kBound * kCount));
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

TEST(Draw, PrefixOfADrawIsTheShorterDrawButOfMost) {
  const DrawKey key = {.seed = 8, .draw = 9};
  const Values longest = draw(key, 50, 38);
  ASSERT_FALSE(draws_most(longest.size(), 50));
  for (std::size_t count = 0; count <= longest.size(); ++count) {
    ASSERT_EQ(draw(key, 50, count),
              Values(longest.begin(), longest.begin() + static_cast<long>(count)));
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
