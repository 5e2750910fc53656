#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/values/macros.h"

namespace velora {

/// `x`, or +0 where `keep` is false, whatever x is. A mask, because a product would turn NaN * 0
/// into NaN, and because a branch keeps the compiler from vectorising the loop around it.
template <typename Real>
VELORA_HD inline Real keep_if(bool keep, Real x) {
  static_assert(sizeof(Real) == sizeof(std::uint32_t) || sizeof(Real) == sizeof(std::uint64_t));
  using Bits =
      std::conditional_t<sizeof(Real) == sizeof(std::uint32_t), std::uint32_t, std::uint64_t>;
  Bits bits;
  std::memcpy(&bits, &x, sizeof(x));
  bits &= Bits{0} - Bits{keep};
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

/// One step of generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438):
///
///   delta_t = r_t + gamma * (1 - done_t) * next_value_t - value_t
///   A_t     = delta_t + gamma * lambda * (1 - end_t) * A_{t+1},   end_t = done_t or truncated_t
///
/// `done` switches the bootstrap off, an end of either kind the recursion. Nothing from beyond an
/// end gets through, not even a NaN.
///
/// A step is an affine map of A_{t+1}. Such maps compose associatively, so a parallel launch can
/// scan the steps that a CPU loop walks.
template <typename Real>
struct GaeStep {
  Real gamma;
  Real decay;  // gamma * lambda

  VELORA_HD Real delta(Real reward, Real value, Real next_value, bool done) const {
    return reward + keep_if(!done, gamma * next_value) - value;
  }

  VELORA_HD Real advantage(Real delta_t, bool end, Real next_advantage) const {
    return delta_t + keep_if(!end, decay * next_advantage);
  }
};

/// The transitions of a rollout, time-major and contiguous: step t of environment i is element
/// t * width + i. Each of the T transitions brings its own next value, so nothing is read for a
/// step T. A flag, of any type, is set where it is not zero.
template <typename Real, typename Flag = std::uint8_t>
struct GaeInput {
  const Real* rewards;
  const Real* values;
  const Real* next_values;
  const Flag* dones;
  const Flag* truncations;
  std::size_t steps;  // T
  std::size_t width;  // environments side by side
};

namespace detail {

// One step of all environments. They do not depend on each other, so the compiler vectorises across
// them. `next` is the row of advantages one step later, null after the last.
template <typename Real, typename Flag>
inline void gae_row(const GaeStep<Real>& step, std::size_t width, const Real* __restrict rewards,
                    const Real* __restrict values, const Real* __restrict next_values,
                    const Flag* __restrict dones, const Flag* __restrict truncations,
                    const Real* __restrict next, Real* __restrict advantages,
                    Real* __restrict returns) {
  for (std::size_t i = 0; i < width; ++i) {
    const bool done = dones[i] != 0;
    const bool end = done | (truncations[i] != 0);
    const Real delta = step.delta(rewards[i], values[i], next_values[i], done);
    advantages[i] = step.advantage(delta, end, next == nullptr ? Real{0} : next[i]);
    returns[i] = advantages[i] + values[i];
  }
}

// All steps of a single environment. The advantage stays in a register, where a row of one would
// send it through memory.
template <typename Real, typename Flag>
inline void gae_column(const GaeStep<Real>& step, const GaeInput<Real, Flag>& in,
                       Real* __restrict advantages, Real* __restrict returns) {
  Real advantage{0};
  for (std::size_t t = in.steps; t-- > 0;) {
    const bool done = in.dones[t] != 0;
    const bool end = done | (in.truncations[t] != 0);
    const Real delta = step.delta(in.rewards[t], in.values[t], in.next_values[t], done);
    advantage = step.advantage(delta, end, advantage);
    advantages[t] = advantage;
    returns[t] = advantage + in.values[t];
  }
}

}  // namespace detail

/// Fills `advantages` and `returns` (advantages + values), each of steps * width elements that
/// overlap neither an input nor each other. O(steps * width), allocates and throws nothing;
/// concurrent calls may share inputs.
template <typename Real, typename Flag = std::uint8_t>
void gae(const GaeInput<Real, Flag>& in, double gamma, double lambda, Real* advantages,
         Real* returns) {
  const GaeStep<Real> step{static_cast<Real>(gamma), static_cast<Real>(gamma * lambda)};
  if (in.width == 1) {
    detail::gae_column(step, in, advantages, returns);
    return;
  }
  for (std::size_t t = in.steps; t-- > 0;) {
    const std::size_t row = t * in.width;
    const Real* next = t + 1 == in.steps ? nullptr : advantages + row + in.width;
    detail::gae_row(step, in.width, in.rewards + row, in.values + row, in.next_values + row,
                    in.dones + row, in.truncations + row, next, advantages + row, returns + row);
  }
}

}  // namespace velora
