#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/returns/gae.h"
#include "core/returns/gae_scan.h"
#include "emulated_gae.h"
#include "emulated_runtime.h"

namespace velora {
namespace {

using testing::emulate_gae;
using testing::GaeEmulation;

/// Vectors without room at their ends, so that AddressSanitizer sees what is out of them.
template <typename Real, typename Flag>
struct Rollout {
  using Number = Real;

  Rollout(std::size_t step_count, std::size_t env_count, double ends, std::uint64_t seed = 7)
      : steps(step_count), width(env_count) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<Real> normal;
    std::bernoulli_distribution end(ends);
    for (std::size_t i = 0; i < steps * width; ++i) {
      rewards.push_back(normal(engine));
      values.push_back(normal(engine));
      next_values.push_back(normal(engine));
      dones.push_back(static_cast<Flag>(end(engine) ? 2 : 0));
      truncations.push_back(static_cast<Flag>(end(engine)));
    }
    for (auto* reals : {&rewards, &values, &next_values}) reals->shrink_to_fit();
    for (auto* flags : {&dones, &truncations}) flags->shrink_to_fit();
  }

  GaeInput<Real, Flag> input() const {
    return {.rewards = rewards.data(),
            .values = values.data(),
            .next_values = next_values.data(),
            .dones = dones.data(),
            .truncations = truncations.data(),
            .steps = steps,
            .width = width};
  }

  std::size_t steps;
  std::size_t width;
  std::vector<Real> rewards, values, next_values;
  std::vector<Flag> dones, truncations;
};

template <typename Real>
struct Results {
  explicit Results(std::size_t count) : advantages(count), returns(count) {}
  std::vector<Real> advantages, returns;
};

/// A launch with its own scratch memory, full of rubbish.
template <typename Real, typename Flag>
struct Launch {
  Launch(const Rollout<Real, Flag>& rollout, double gamma, double lambda)
      : results(rollout.rewards.size()),
        scratch(device::gae_scratch_words(rollout.steps, rollout.width, sizeof(Real) == 8),
                0xA5A5A5A5A5A5A5A5),
        params{.rewards = rollout.rewards.data(),
               .values = rollout.values.data(),
               .next_values = rollout.next_values.data(),
               .dones = rollout.dones.data(),
               .truncations = rollout.truncations.data(),
               .advantages = results.advantages.data(),
               .returns = results.returns.data(),
               .scratch = scratch.data(),
               .steps = rollout.steps,
               .width = rollout.width,
               .gamma = gamma,
               .lambda = lambda,
               .is_double = std::is_same_v<Real, double>,
               .flags_are_real = std::is_same_v<Real, Flag>} {}

  Results<Real> results;
  std::vector<std::uint64_t> scratch;
  GaeParams params;
};

template <typename Real, typename Flag>
Results<Real> emulated(const Rollout<Real, Flag>& rollout, double gamma, double lambda,
                       const GaeEmulation& emulation) {
  Launch launch(rollout, gamma, lambda);
  emulate_gae(launch.params, emulation);
  return launch.results;
}

template <typename Real, typename Flag>
Results<Real> sequential(const Rollout<Real, Flag>& rollout, double gamma, double lambda) {
  Results<Real> results(rollout.rewards.size());
  gae(rollout.input(), gamma, lambda, results.advantages.data(), results.returns.data());
  return results;
}

/// The same sums over absolute values: what rounding errors are in proportion to.
template <typename Real, typename Flag>
std::vector<Real> magnitudes(Rollout<Real, Flag> rollout, double gamma, double lambda) {
  for (auto* reals : {&rollout.rewards, &rollout.values, &rollout.next_values}) {
    for (Real& x : *reals) x = std::abs(x);
  }
  for (Real& x : rollout.values) x = -x;
  auto results = sequential(rollout, gamma, lambda).advantages;
  for (std::size_t i = 0; i < results.size(); ++i) results[i] -= 2 * rollout.values[i];
  return results;
}

template <typename Real>
bool same_number(Real a, Real b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

/// The scan makes a fixed number of roundings for each chunk that it passes, the loop some for each
/// step: up to this many units in the last place of the magnitude lie between them.
template <typename Real, typename Flag>
void expect_close(const Rollout<Real, Flag>& rollout, double gamma, double lambda,
                  const GaeEmulation& emulation) {
  const auto got = emulated(rollout, gamma, lambda, emulation);
  const auto expected = sequential(rollout, gamma, lambda);
  const auto magnitude = magnitudes(rollout, gamma, lambda);
  const auto chunks = device::plan_gae(rollout.steps, rollout.width).chunks;
  const auto steps = static_cast<Real>(rollout.steps);
  const Real loop = 3 + 2 * steps;
  const Real scan = 64 + 3 * static_cast<Real>(chunks);
  const Real bound = (loop + scan) * std::numeric_limits<Real>::epsilon();
  for (std::size_t i = 0; i < got.advantages.size(); ++i) {
    if (same_number(got.advantages[i], expected.advantages[i])) continue;
    ASSERT_LE(std::abs(got.advantages[i] - expected.advantages[i]), bound * magnitude[i])
        << rollout.steps << " steps, width " << rollout.width << ", element " << i;
    ASSERT_EQ(got.returns[i], got.advantages[i] + rollout.values[i]);
  }
}

template <typename Types>
class GaeScanOf : public ::testing::Test {};
using AllTypes = ::testing::Types<Rollout<float, std::uint8_t>, Rollout<float, float>,
                                  Rollout<double, std::uint8_t>, Rollout<double, double>>;
TYPED_TEST_SUITE(GaeScanOf, AllTypes);

TYPED_TEST(GaeScanOf, SmallShapesAreCloseToTheLoop) {
  for (const std::size_t steps : {1, 2, 3, 7, 8, 9, 63, 64, 65, 130, 257}) {
    for (const std::size_t width : {1, 2, 3, 5, 8, 31, 32, 33, 64, 100, 255, 257}) {
      const GaeEmulation emulation{.seed = steps * 1000 + width};
      expect_close(TypeParam(steps, width, 0.1), 0.99, 0.95, emulation);
    }
  }
}

TYPED_TEST(GaeScanOf, LongAndWideShapesAreCloseToTheLoop) {
  constexpr std::pair<std::size_t, std::size_t> kShapes[] = {
      {2047, 1}, {2048, 1}, {2049, 1}, {4096, 1},   {100'001, 1},
      {3001, 2}, {3000, 7}, {997, 33}, {1025, 520}, {33, 3001}};
  for (const auto& [steps, width] : kShapes) {
    for (const double ends : {0.0, 0.01}) {
      const GaeEmulation emulation{.seed = steps + width};
      expect_close(TypeParam(steps, width, ends), 0.99, 0.95, emulation);
    }
  }
}

TYPED_TEST(GaeScanOf, DiscountsOfZeroAndOneAreCloseToTheLoop) {
  for (const auto& [steps, width] : {std::pair<std::size_t, std::size_t>{5000, 1}, {300, 600}}) {
    const TypeParam rollout(steps, width, 0.0001);
    for (const double gamma : {0.0, 0.5, 1.0}) {
      for (const double lambda : {0.0, 1.0}) expect_close(rollout, gamma, lambda, {});
    }
  }
}

TYPED_TEST(GaeScanOf, BitsAreTheSameInEveryRun) {
  std::uint64_t sums_seen = 0;
  for (const auto& [steps, width] :
       {std::pair<std::size_t, std::size_t>{540'000, 1}, {40'000, 3}, {1500, 530}}) {
    const TypeParam rollout(steps, width, 0.00001);
    // One block after the other: each finds the advantage of the next chunk.
    const GaeEmulation in_turn{.blocks_at_once = 1, .late_one_in = 0};
    const auto expected = emulated(rollout, 0.999, 0.999, in_turn);
    EXPECT_EQ(in_turn.sums_seen, 0u);
    for (const std::uint32_t blocks_at_once : {3, 24}) {
      const GaeEmulation emulation{
          .seed = blocks_at_once, .blocks_at_once = blocks_at_once, .late_one_in = 3};
      const auto got = emulated(rollout, 0.999, 0.999, emulation);
      const std::size_t nbytes = got.advantages.size() * sizeof(got.advantages[0]);
      EXPECT_EQ(std::memcmp(got.advantages.data(), expected.advantages.data(), nbytes), 0);
      EXPECT_EQ(std::memcmp(got.returns.data(), expected.returns.data(), nbytes), 0);
      sums_seen += emulation.sums_seen;
    }
  }
  EXPECT_GT(sums_seen, 100u) << "nothing was folded";
}

TYPED_TEST(GaeScanOf, ThreadsOfABlockNeedNoOrder) {
  for (const auto& [steps, width] :
       {std::pair<std::size_t, std::size_t>{9000, 1}, {600, 5}, {150, 530}, {8, 300}}) {
    const GaeEmulation emulation{.seed = steps, .blocks_at_once = 2, .threads_per_block = 3};
    expect_close(TypeParam(steps, width, 0.01), 0.99, 0.95, emulation);
  }
}

TYPED_TEST(GaeScanOf, NothingComesThroughAnEnd) {
  using Real = typename TypeParam::Number;
  const Real poisons[] = {std::numeric_limits<Real>::quiet_NaN(),
                          std::numeric_limits<Real>::infinity()};
  for (const auto& [steps, width] :
       {std::pair<std::size_t, std::size_t>{7000, 1}, {500, 9}, {200, 530}}) {
    for (const Real poison : poisons) {
      TypeParam rollout(steps, width, 0.0);
      for (std::size_t env = 0; env < width; ++env) {
        // An end somewhere else in each column, poison behind it.
        const std::size_t last = env * 13 % (steps - 1) + (width == 1 ? 2500 : 0);
        auto& flags = env % 2 == 0 ? rollout.dones : rollout.truncations;
        flags[last * width + env] = 1;
        if (env % 2 == 0) rollout.next_values[last * width + env] = poison;
        for (std::size_t t = last + 1; t < steps; ++t) rollout.rewards[t * width + env] = poison;
      }
      const auto got = emulated(rollout, 0.99, 0.95, {});
      const auto expected = sequential(rollout, 0.99, 0.95);
      for (std::size_t i = 0; i < got.advantages.size(); ++i) {
        ASSERT_EQ(std::isfinite(got.advantages[i]), std::isfinite(expected.advantages[i])) << i;
      }
    }
  }
}

TYPED_TEST(GaeScanOf, InfinityStaysOneHoweverFarItComes) {
  for (const auto& [steps, width] : {std::pair<std::size_t, std::size_t>{50'000, 1}, {9000, 5}}) {
    TypeParam rollout(steps, width, 0.0);
    rollout.rewards[(steps - 1) * width] =
        -std::numeric_limits<typename TypeParam::Number>::infinity();
    const auto got = emulated(rollout, 0.9, 0.5, {});
    const auto expected = sequential(rollout, 0.9, 0.5);
    for (std::size_t i = 0; i < got.advantages.size(); i += width) {
      ASSERT_EQ(got.advantages[i], expected.advantages[i]) << i;
    }
  }
}

TEST(GaeScan, RoundsAFixedNumberOfTimesForEachChunk) {
  // Discounts that a float holds, so that the loop in double precision is as good as exact.
  constexpr double kGamma = 15.0 / 16;
  for (const double lambda : {31.0 / 32, 16.0 / 15}) {
    for (const auto& [steps, width] :
         {std::pair<std::size_t, std::size_t>{100'000, 1}, {20'000, 3}, {2000, 530}}) {
      const Rollout<float, float> rollout(steps, width, 0.0002);
      Rollout<double, float> exact(0, 0, 0);
      exact.steps = steps;
      exact.width = width;
      exact.rewards.assign(rollout.rewards.begin(), rollout.rewards.end());
      exact.values.assign(rollout.values.begin(), rollout.values.end());
      exact.next_values.assign(rollout.next_values.begin(), rollout.next_values.end());
      exact.dones = rollout.dones;
      exact.truncations = rollout.truncations;
      const auto got = emulated(rollout, kGamma, lambda, {}).advantages;
      const auto expected = sequential(exact, kGamma, lambda).advantages;
      const auto magnitude = magnitudes(exact, kGamma, lambda);
      const auto chunks = static_cast<double>(device::plan_gae(steps, width).chunks);
      const double bound = (64 + 3 * chunks) * std::numeric_limits<float>::epsilon();
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_LE(std::abs(got[i] - expected[i]), bound * magnitude[i]) << i;
      }
    }
  }
}

TEST(GaeScan, RuntimeQueuesItOnAStream) {
  const Rollout<float, std::uint8_t> rollout(3000, 3, 0.01);
  const auto expected = emulated(rollout, 0.99, 0.95, {});
  Launch launch(rollout, 0.99, 0.95);
  testing::EmulatedRuntime runtime;
  runtime.launch_gae(launch.params, nullptr);
  EXPECT_NE(launch.results.advantages, expected.advantages);
  runtime.synchronize(nullptr);
  EXPECT_EQ(launch.results.advantages, expected.advantages);
}

TEST(GaePlan, EveryElementIsInATile) {
  for (std::uint64_t steps = 1; steps < 1'000'000; steps = steps * 3 + 1) {
    for (std::uint64_t width = 1; width < 100'000; width = width * 3 + 1) {
      const device::GaePlan plan = device::plan_gae(steps, width);
      EXPECT_EQ(plan.groups() * plan.columns(), device::kGaeThreads);
      EXPECT_GE(plan.chunks * plan.chunk_steps(), steps);
      EXPECT_LT((plan.chunks - 1) * plan.chunk_steps(), steps);
      EXPECT_GE(plan.column_tiles * plan.columns(), width);
      EXPECT_LT((plan.column_tiles - 1) * plan.columns(), width);
    }
  }
}

TEST(GaePlan, LongAndNarrowLooksFarAndWideReadsWholeRows) {
  EXPECT_EQ(device::plan_gae(1'000'000, 1).groups(), 256u);
  EXPECT_EQ(device::plan_gae(2048, 4096).columns(), 32u);
  EXPECT_EQ(device::plan_gae(128, 65536).columns(), 32u);
  EXPECT_EQ(device::plan_gae(8, 65536).chunks, 1u);
  EXPECT_EQ(device::gae_scratch_words(2048, 1, false), 0u);
  EXPECT_EQ(device::gae_scratch_words(2049, 1, false), 3u);
  EXPECT_EQ(device::gae_scratch_words(2049, 1, true), 5u);
}

}  // namespace
}  // namespace velora
