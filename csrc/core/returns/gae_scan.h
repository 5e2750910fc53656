#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/returns/gae.h"
#include "core/values/macros.h"

// Generalised advantage estimation by a launch, in a single pass: every input is read once, every
// output written once. A step is an affine map of the advantage one step later, and such maps
// compose, so that stretches of time are summed up side by side.
//
// A block takes a tile: a chunk of time of a few environments ("columns"). Its threads load it in
// the order of memory, and then walk a few steps of one column each, first to sum them up and, when
// they know what comes in from later, to write them down. Chunks learn that from each other by
// decoupled look-back (Merrill & Garland 2016, Single-pass Parallel Prefix Scan with Decoupled
// Look-back), from the last chunk of time backwards.
//
// The result is the same bits in every run: within a tile the order is fixed, and between chunks
// the advantage that comes in is always folded chunk by chunk, from whichever one it is known.
//
// Everything is reached through a `Group`, the threads of one block:
//
//   group.run(f)     f(rank, thread) in each, where `thread` is its own memory; then all wait
//   group.all(f)     the same, and says whether f said true in all of them
//   group.block()    the block's number in the launch
//   Group::Atomics   add_one(), load(), store() of 64-bit words that blocks share, all in one piece
//                    and in no order to other words; lower() within a block; pause()

namespace velora {

/// Inputs and outputs of a launch, on the device. All tensors are contiguous and do not overlap,
/// but that inputs may be the same.
struct GaeParams {
  const void* rewards;
  const void* values;
  const void* next_values;
  const void* dones;
  const void* truncations;
  void* advantages;
  void* returns;
  std::uint64_t* scratch;  // gae_scratch_words() of them, with anything in them; null for none
  std::uint64_t steps;     // neither is 0
  std::uint64_t width;
  double gamma;   // [0, 1]
  double lambda;  // [0, 1]
  bool is_double;
  bool flags_are_real;  // of the type of the rewards; otherwise bytes
};

namespace device {

inline constexpr std::uint32_t kGaeThreads = 256;
inline constexpr std::uint32_t kGaeSteps = 8;  // of each thread; their loads are in flight at once
inline constexpr std::uint32_t kGaeTile = kGaeThreads * kGaeSteps;
inline constexpr std::uint32_t kGaeMaxLevel = 8;  // 2^8 threads
static_assert(kGaeThreads == 1u << kGaeMaxLevel);

/// How steps and columns are cut into tiles.
struct GaePlan {
  std::uint32_t columns_log2;  // of a tile
  std::uint64_t chunks;
  std::uint64_t column_tiles;

  VELORA_HD std::uint32_t columns() const { return 1u << columns_log2; }
  /// Threads that share a column.
  VELORA_HD std::uint32_t groups() const { return kGaeThreads >> columns_log2; }
  VELORA_HD std::uint32_t chunk_steps() const { return kGaeTile >> columns_log2; }
};

/// Many columns make for wide rows, few for long chunks. A chunk sees as far back as a column has
/// threads, so the chain of chunks that wait for each other gets longer with the square of the
/// columns, while the time to move the data gets longer with the width.
inline GaePlan plan_gae(std::uint64_t steps, std::uint64_t width) {
  constexpr std::uint64_t kFullRow = 32;  // a sector of flags, a line of floats
  std::uint32_t log2 = 0;
  while (log2 < kGaeMaxLevel && (std::uint64_t{1} << log2) < width) {
    const std::uint64_t columns = std::uint64_t{2} << log2;
    const bool whole_time = kGaeTile / columns >= steps;
    if (!whole_time && (columns > kFullRow || columns * columns > 2 * width)) break;
    ++log2;
  }
  const std::uint64_t columns = std::uint64_t{1} << log2;
  const std::uint64_t chunk_steps = kGaeTile >> log2;
  return {.columns_log2 = log2,
          .chunks = (steps + chunk_steps - 1) / chunk_steps,
          .column_tiles = (width + columns - 1) / columns};
}

/// A value and how it is meant, as other blocks see it. Each word brings its meaning along, so that
/// nothing needs to be ordered; a double has a word for each half.
template <typename Real>
struct GaeMail {
  static constexpr std::uint32_t kWords = sizeof(Real) / sizeof(std::uint32_t);
  enum State : std::uint32_t {
    kNothing = 0,
    kSum = 1,  // of a chunk without ends, as if nothing came in from later
    kAdvantage = 2,
  };

  template <typename Atomics>
  VELORA_HD static void post(std::uint64_t* words, std::uint64_t stride, Real value, State state) {
    std::uint32_t parts[kWords];
    std::memcpy(parts, &value, sizeof(value));
    for (std::uint32_t w = 0; w < kWords; ++w) {
      Atomics::store(words + w * stride, std::uint64_t{state} << 32 | parts[w]);
    }
  }

  /// Waits until there is something.
  template <typename Atomics>
  VELORA_HD static State fetch(const std::uint64_t* words, std::uint64_t stride, Real* value) {
    while (true) {
      std::uint32_t parts[kWords];
      const std::uint64_t first = Atomics::load(words);
      bool whole = first >> 32 != kNothing;
      parts[0] = static_cast<std::uint32_t>(first);
      for (std::uint32_t w = 1; w < kWords; ++w) {
        const std::uint64_t word = Atomics::load(words + w * stride);
        whole &= word >> 32 == first >> 32;  // or it was caught between two posts
        parts[w] = static_cast<std::uint32_t>(word);
      }
      if (whole) {
        std::memcpy(value, parts, sizeof(*value));
        return static_cast<State>(first >> 32);
      }
      Atomics::pause();
    }
  }
};

/// One ticket, and the mail of each column of each chunk, where there are chunks to wait for.
inline std::uint64_t gae_scratch_words(std::uint64_t steps, std::uint64_t width, bool is_double) {
  const std::uint64_t chunks = plan_gae(steps, width).chunks;
  const std::uint32_t words = is_double ? GaeMail<double>::kWords : GaeMail<float>::kWords;
  return chunks > 1 ? 1 + chunks * width * words : 0;
}

/// Effect of a stretch of steps on the advantage that comes in: A -> sum + decay^n * A,
/// where no episode ends; where one does, nothing gets through.
template <typename Real>
struct GaeStretch {
  Real sum;
  bool ends;

  VELORA_HD Real advantage(Real power, Real incoming) const {
    return sum + keep_if(!ends, power * incoming);
  }
};

/// Passed to the launch by value.
template <typename Real, typename Flag>
struct GaeScan {
  GaeInput<Real, Flag> in;
  GaeStep<Real> step;
  Real* advantages;
  Real* returns;
  std::uint64_t* scratch;
  GaePlan plan;
  Real least;                     // for powers; 0 where the decay is 0
  Real powers[kGaeMaxLevel + 1];  // [l] is decay^(kGaeSteps * 2^l)

  static GaeScan of(const GaeParams& params) {
    GaeScan scan;
    scan.in = {.rewards = static_cast<const Real*>(params.rewards),
               .values = static_cast<const Real*>(params.values),
               .next_values = static_cast<const Real*>(params.next_values),
               .dones = static_cast<const Flag*>(params.dones),
               .truncations = static_cast<const Flag*>(params.truncations),
               .steps = params.steps,
               .width = params.width};
    scan.step = {.gamma = static_cast<Real>(params.gamma),
                 .decay = static_cast<Real>(params.gamma * params.lambda)};
    scan.advantages = static_cast<Real*>(params.advantages);
    scan.returns = static_cast<Real*>(params.returns);
    scan.scratch = params.scratch;
    scan.plan = plan_gae(params.steps, params.width);
    const auto decay = static_cast<double>(scan.step.decay);
    scan.least = decay == 0 ? Real{0} : std::numeric_limits<Real>::denorm_min();
    for (std::uint32_t level = 0; level <= kGaeMaxLevel; ++level) {
      scan.powers[level] = scan.not_zero(static_cast<Real>(std::pow(decay, kGaeSteps << level)));
    }
    return scan;
  }

  /// Step by step an infinity stays one; multiplied by a power that is too small for its type it
  /// would become NaN.
  VELORA_HD Real not_zero(Real power) const { return power < least ? least : power; }

  /// decay^n for the n steps of so many groups.
  VELORA_HD Real power(std::uint32_t groups) const {
    Real power{1};
    for (std::uint32_t level = 0; level < kGaeMaxLevel; ++level) {
      if ((groups >> level & 1) != 0) power *= powers[level];
    }
    return not_zero(power);
  }
  VELORA_HD Real chunk_power() const { return powers[kGaeMaxLevel - plan.columns_log2]; }

  VELORA_HD std::uint64_t* mail(std::uint64_t chunk, std::uint64_t column) const {
    return scratch + 1 + chunk * in.width * GaeMail<Real>::kWords + column;
  }
};

/// Calls f with the GaeScan of the parameters' types.
template <typename F>
void with_gae_scan(const GaeParams& params, const F& f) {
  if (params.is_double && params.flags_are_real) return f(GaeScan<double, double>::of(params));
  if (params.is_double) return f(GaeScan<double, std::uint8_t>::of(params));
  if (params.flags_are_real) return f(GaeScan<float, float>::of(params));
  f(GaeScan<float, std::uint8_t>::of(params));
}

inline std::uint64_t gae_tiles(const GaePlan& plan) { return plan.chunks * plan.column_tiles; }

}  // namespace device
}  // namespace velora
