#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "core/returns/gae.h"

namespace velora {
namespace {

constexpr double kGamma = 0.5;
constexpr double kLambda = 0.5;

template <typename Real>
struct Rollout {
  Rollout(std::size_t step_count, std::size_t env_count)
      : steps(step_count),
        width(env_count),
        rewards(steps * width),
        values(steps * width),
        next_values(steps * width),
        dones(steps * width),
        truncations(steps * width),
        advantages(steps * width),
        returns(steps * width) {}

  void run(double gamma = kGamma, double lambda = kLambda) {
    gae<Real>({.rewards = rewards.data(),
               .values = values.data(),
               .next_values = next_values.data(),
               .dones = dones.data(),
               .truncations = truncations.data(),
               .steps = steps,
               .width = width},
              gamma, lambda, advantages.data(), returns.data());
  }

  std::size_t steps;
  std::size_t width;
  std::vector<Real> rewards;
  std::vector<Real> values;
  std::vector<Real> next_values;
  std::vector<std::uint8_t> dones;
  std::vector<std::uint8_t> truncations;
  std::vector<Real> advantages;
  std::vector<Real> returns;
};

template <typename Real>
Rollout<Real> random_rollout(std::size_t steps, std::size_t width) {
  Rollout<Real> rollout(steps, width);
  std::mt19937 engine(7);
  std::normal_distribution<Real> normal;
  std::bernoulli_distribution end(0.2);
  for (std::size_t i = 0; i < steps * width; ++i) {
    rollout.rewards[i] = normal(engine);
    rollout.values[i] = normal(engine);
    rollout.next_values[i] = normal(engine);
    rollout.dones[i] = end(engine);
    rollout.truncations[i] = end(engine);
  }
  return rollout;
}

template <typename Real>
class Gae : public testing::Test {};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(Gae, Reals);

// Rewards 1, 2, 3; deltas 1, 1.75 and 3 - 1.5 + 0.5 * 2 * (1 - done); decay 0.25.
template <typename Real>
Rollout<Real> worked_example() {
  Rollout<Real> rollout(3, 1);
  rollout.rewards = {1, 2, 3};
  rollout.values = {Real{0.5}, 1, Real{1.5}};
  rollout.next_values = {1, Real{1.5}, 2};
  return rollout;
}

TYPED_TEST(Gae, LastStepWithoutEndBootstraps) {
  auto rollout = worked_example<TypeParam>();
  rollout.run();
  EXPECT_EQ(rollout.advantages,
            (std::vector<TypeParam>{TypeParam{1.59375}, TypeParam{2.375}, TypeParam{2.5}}));
}

TYPED_TEST(Gae, DoneDropsTheBootstrap) {
  auto rollout = worked_example<TypeParam>();
  rollout.dones[2] = 1;
  rollout.run();
  EXPECT_EQ(rollout.advantages,
            (std::vector<TypeParam>{TypeParam{1.53125}, TypeParam{2.125}, TypeParam{1.5}}));
}

TYPED_TEST(Gae, TruncationKeepsTheBootstrapAndStopsTheRecursion) {
  auto rollout = worked_example<TypeParam>();
  rollout.truncations[1] = 1;
  rollout.run();
  EXPECT_EQ(rollout.advantages,
            (std::vector<TypeParam>{TypeParam{1.4375}, TypeParam{1.75}, TypeParam{2.5}}));
}

TYPED_TEST(Gae, ReturnsAreAdvantagesPlusValues) {
  auto rollout = random_rollout<TypeParam>(20, 5);
  rollout.run();
  for (std::size_t i = 0; i < rollout.returns.size(); ++i) {
    EXPECT_EQ(rollout.returns[i], rollout.advantages[i] + rollout.values[i]);
  }
}

TYPED_TEST(Gae, AnyNonZeroByteIsAFlag) {
  for (const std::size_t width : {1, 5}) {
    auto ones = random_rollout<TypeParam>(20, width);
    auto others = ones;
    for (auto& flag : others.dones) flag = static_cast<std::uint8_t>(flag * 255);
    for (auto& flag : others.truncations) flag = static_cast<std::uint8_t>(flag * 2);
    ones.run();
    others.run();
    EXPECT_EQ(ones.advantages, others.advantages) << width;
  }
}

// Widths around those of vector registers: full vectors, remainders, both, neither.
TYPED_TEST(Gae, EveryWidthEqualsOneEnvironmentAtATime) {
  constexpr std::size_t kSteps = 9;
  for (std::size_t width = 0; width <= 67; ++width) {
    auto rollout = random_rollout<TypeParam>(kSteps, width);
    rollout.run();
    for (std::size_t env = 0; env < width; ++env) {
      Rollout<TypeParam> alone(kSteps, 1);
      for (std::size_t t = 0; t < kSteps; ++t) {
        const std::size_t i = t * width + env;
        alone.rewards[t] = rollout.rewards[i];
        alone.values[t] = rollout.values[i];
        alone.next_values[t] = rollout.next_values[i];
        alone.dones[t] = rollout.dones[i];
        alone.truncations[t] = rollout.truncations[i];
      }
      alone.run();
      const auto tolerance = 16 * std::numeric_limits<TypeParam>::epsilon();
      for (std::size_t t = 0; t < kSteps; ++t) {
        ASSERT_NEAR(rollout.advantages[t * width + env], alone.advantages[t], tolerance)
            << "width " << width << ", environment " << env << ", step " << t;
      }
    }
  }
}

TYPED_TEST(Gae, NaNBeyondAnEndStaysThere) {
  constexpr auto kNaN = std::numeric_limits<TypeParam>::quiet_NaN();
  for (const std::size_t width : {1, 3, 16}) {
    auto rollout = random_rollout<TypeParam>(6, width);
    rollout.dones.assign(rollout.dones.size(), 0);
    rollout.truncations.assign(rollout.truncations.size(), 0);
    for (std::size_t env = 0; env < width; ++env) {
      rollout.truncations[2 * width + env] = 1;
      rollout.values[3 * width + env] = kNaN;
      rollout.dones[5 * width + env] = 1;
      rollout.next_values[5 * width + env] = kNaN;
    }
    rollout.run();
    for (std::size_t env = 0; env < width; ++env) {
      for (const std::size_t t : {0, 1, 2, 4, 5}) {
        EXPECT_TRUE(std::isfinite(rollout.advantages[t * width + env])) << t;
      }
      EXPECT_TRUE(std::isnan(rollout.advantages[3 * width + env]));
    }
  }
}

TYPED_TEST(Gae, NoStepsTouchesNothing) {
  gae<TypeParam>({}, kGamma, kLambda, nullptr, nullptr);
  gae<TypeParam>({.rewards = nullptr,
                  .values = nullptr,
                  .next_values = nullptr,
                  .dones = nullptr,
                  .truncations = nullptr,
                  .steps = 0,
                  .width = 1},
                 kGamma, kLambda, nullptr, nullptr);
}

TYPED_TEST(Gae, KeepIfPassesOrDropsAnyBits) {
  constexpr auto kInfinity = std::numeric_limits<TypeParam>::infinity();
  EXPECT_EQ(keep_if(true, -kInfinity), -kInfinity);
  EXPECT_EQ(keep_if(false, -kInfinity), TypeParam{0});
  EXPECT_FALSE(std::signbit(keep_if(false, TypeParam{-1})));
}

}  // namespace
}  // namespace velora
