#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/values/power.h"

namespace velora {
namespace {

constexpr double kLeastNormal = std::numeric_limits<double>::min();

long double relative_error(double got, long double expected) {
  return std::fabs((static_cast<long double>(got) - expected) / expected);
}

TEST(Power, IsAsExactAsStated) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> log2_base(-150.0, 130.0);
  std::uniform_real_distribution<double> exponents(-8.0, 8.0);
  for (int i = 0; i < 200'000; ++i) {
    const double base = std::exp2(log2_base(random));
    const double exponent = i % 3 == 0 ? std::round(exponents(random)) : exponents(random);
    const long double expected =
        std::pow(static_cast<long double>(base), static_cast<long double>(exponent));
    if (expected < kLeastNormal || expected > std::numeric_limits<double>::max()) continue;
    ASSERT_LT(relative_error(power(base, exponent), expected), 4e-15L) << base << " " << exponent;
  }
}

TEST(Power, OfSpecialValuesIsExact) {
  for (const double exponent : {-8.0, -0.4, -0.0, 0.0, 0.6, 1.0, 4.0}) {
    EXPECT_EQ(power(0.0, exponent), 0.0);
    EXPECT_EQ(power(1.0, exponent), 1.0);
  }
  for (const double base : {5e-324, 1e-310, 0.1, 0.3, 1.0, 3.0, 1e300}) {
    EXPECT_EQ(power(base, 0.0), 1.0);
    EXPECT_EQ(power(base, -0.0), 1.0);
    EXPECT_EQ(power(base, 1.0), base);
  }
  EXPECT_EQ(power(4.0, 0.5), 2.0);
  EXPECT_EQ(power(8.0, -1.0), 0.125);
}

TEST(Power, OfWhatLeavesTheRangeIsClamped) {
  EXPECT_EQ(power(1e300, 4.0), std::numeric_limits<double>::max());
  EXPECT_EQ(power(1e300, -4.0), kLeastNormal);
  EXPECT_EQ(power(5e-324, 4.0), kLeastNormal);
}

TEST(Power, OfFloatsIsMonotone) {
  for (const double exponent : {0.1, 0.4, 0.6, 1.0, 2.0}) {
    for (const float start : {1e-30f, 1e-6f, 0.37f, 0.99999f, 1.9999f, 7e5f}) {
      float base = start;
      double before = power(base, exponent);
      for (int i = 0; i < 2'000; ++i) {
        base = std::nextafter(base, 1e30f);
        const double next = power(base, exponent);
        ASSERT_GE(next, before) << base << " " << exponent;
        before = next;
      }
    }
  }
}

}  // namespace
}  // namespace velora
