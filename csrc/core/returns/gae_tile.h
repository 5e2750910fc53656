#pragma once

#include <cstdint>

#include "core/returns/gae.h"
#include "core/returns/gae_scan.h"
#include "core/values/macros.h"

namespace velora::device {

/// Private state of a thread of a block.
template <typename Real>
struct GaeThread {
  Real values[kGaeSteps];
};

/// The memory that the threads of a block share.
template <typename Real>
struct GaeSpace {
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  std::uint64_t chunk;
  std::uint64_t first_column;
  Real elements[kGaeTile + kGaeTile / 32];  // deltas, then advantages
  std::uint8_t ends[kGaeTile];
  Real sums[2][kGaeThreads];  // of stretches; a pass reads one half and writes the other
  std::uint8_t ended[2][kGaeThreads];
  Real seen[kGaeThreads];              // in the mail of later chunks
  std::uint32_t nearest[kGaeThreads];  // group that saw an advantage, for each column
  Real incoming[kGaeThreads];          // from the next chunk, for each column

  /// Where element e is. Threads that walk columns are a power of two apart; the gaps keep them out
  /// of each other's memory banks.
  VELORA_HD Real& element(std::uint32_t e) { return elements[e + e / 32]; }

  VELORA_HD GaeStretch<Real> stretch(std::uint32_t half, std::uint32_t rank) const {
    return {sums[half][rank], ended[half][rank] != 0};
  }
  VELORA_HD void keep(std::uint32_t half, std::uint32_t rank, const GaeStretch<Real>& stretch) {
    sums[half][rank] = stretch.sum;
    ended[half][rank] = static_cast<std::uint8_t>(stretch.ends);
  }
};

/// The elements of a tile that a thread moves: consecutive threads take neighbours in memory.
struct GaeElements {
  std::uint64_t index;  // of the first
  std::uint64_t stride;
  std::uint32_t count;

  VELORA_HD std::uint64_t operator[](std::uint32_t k) const { return index + k * stride; }

  template <typename Real, typename Flag>
  VELORA_HD static GaeElements of(const GaeScan<Real, Flag>& scan, const GaeSpace<Real>& space,
                                  std::uint32_t rank) {
    const std::uint64_t column = space.first_column + (rank & (scan.plan.columns() - 1));
    const std::uint64_t step =
        space.chunk * scan.plan.chunk_steps() + (rank >> scan.plan.columns_log2);
    GaeElements elements;
    elements.index = step * scan.in.width + column;
    elements.stride = scan.plan.groups() * scan.in.width;
    elements.count = 0;
    if (column >= scan.in.width || step >= scan.in.steps) return elements;
    const std::uint64_t more =
        (scan.in.steps - 1 - step) >> (kGaeMaxLevel - scan.plan.columns_log2);
    elements.count = more < kGaeSteps ? static_cast<std::uint32_t>(more) + 1 : kGaeSteps;
    return elements;
  }
};

/// The order of the tickets is that in which tiles need each other: a block that waits for a tile
/// holds a later ticket, so that tile is at work already.
template <typename Atomics, typename Real, typename Flag>
VELORA_HD inline void claim_tile(const GaeScan<Real, Flag>& scan, GaeSpace<Real>& space,
                                 std::uint64_t block) {
  // A launch has fewer blocks than 32 bits count, and wider divisions take a device long.
  const auto ticket =
      static_cast<std::uint32_t>(scan.plan.chunks > 1 ? Atomics::add_one(scan.scratch) : block);
  const auto column_tiles = static_cast<std::uint32_t>(scan.plan.column_tiles);
  space.chunk = scan.plan.chunks - 1 - ticket / column_tiles;
  space.first_column = std::uint64_t{ticket % column_tiles} << scan.plan.columns_log2;
}

template <typename Real, typename Flag>
VELORA_HD inline void load_part(const GaeScan<Real, Flag>& scan, GaeSpace<Real>& space,
                                std::uint32_t rank, GaeThread<Real>& thread) {
  // All loads come before what is done with them, and none is left out, so that they wait for the
  // memory together.
  Real rewards[kGaeSteps];
  Real next_values[kGaeSteps];
  Flag dones[kGaeSteps];
  Flag truncations[kGaeSteps];
  const GaeElements elements = GaeElements::of(scan, space, rank);
  for (std::uint32_t k = 0; k < kGaeSteps; ++k) {
    const std::uint64_t i = k < elements.count ? elements[k] : 0;
    rewards[k] = scan.in.rewards[i];
    thread.values[k] = scan.in.values[i];
    next_values[k] = scan.in.next_values[i];
    dones[k] = scan.in.dones[i];
    truncations[k] = scan.in.truncations[i];
  }
  for (std::uint32_t k = 0; k < kGaeSteps; ++k) {
    const std::uint32_t e = rank + k * kGaeThreads;
    const bool done = dones[k] != 0;
    const Real delta = scan.step.delta(rewards[k], thread.values[k], next_values[k], done);
    // Steps beyond the last count as an end without a value.
    const bool has = k < elements.count;
    space.element(e) = keep_if(has, delta);
    space.ends[e] = static_cast<std::uint8_t>(done | (truncations[k] != 0) | !has);
  }
  space.nearest[rank] = GaeSpace<Real>::kNone;
  space.incoming[rank] = Real{0};
}

/// Visits the steps of a thread's group in its column, the last first, with the advantage that each
/// has when `advantage` comes in. Returns the last of them.
template <typename Real, typename Flag, typename F>
VELORA_HD inline Real walk(const GaeScan<Real, Flag>& scan, GaeSpace<Real>& space,
                           std::uint32_t rank, Real advantage, const F& f) {
  const std::uint32_t column = rank & (scan.plan.columns() - 1);
  const std::uint32_t first = (rank >> scan.plan.columns_log2) * kGaeSteps;
  for (std::uint32_t k = kGaeSteps; k-- > 0;) {
    const std::uint32_t e = ((first + k) << scan.plan.columns_log2) + column;
    const bool end = space.ends[e] != 0;
    Real& element = space.element(e);
    advantage = scan.step.advantage(element, end, advantage);
    f(element, end, advantage);
  }
  return advantage;
}

template <typename Real, typename Flag>
VELORA_HD inline void sum_up_part(const GaeScan<Real, Flag>& scan, GaeSpace<Real>& space,
                                  std::uint32_t rank) {
  bool ends = false;
  const Real sum = walk(scan, space, rank, Real{0}, [&](Real&, bool end, Real) { ends |= end; });
  space.keep(0, rank, {sum, ends});
}

/// Sums up from each group to the end of the chunk. Returns the half that holds the result.
VELORA_NO_EXEC_CHECK
template <typename Group, typename Real, typename Flag>
VELORA_HD inline std::uint32_t sum_up_groups(const Group& group, const GaeScan<Real, Flag>& scan,
                                             GaeSpace<Real>& space) {
  std::uint32_t half = 0;
  for (std::uint32_t level = 0; 1u << level < scan.plan.groups(); ++level) {
    group.run([&](std::uint32_t rank, GaeThread<Real>&) {
      GaeStretch<Real> stretch = space.stretch(half, rank);
      const std::uint32_t later = rank + (scan.plan.columns() << level);
      if (later < kGaeThreads) {
        const GaeStretch<Real> rest = space.stretch(half, later);
        stretch = {stretch.advantage(scan.powers[level], rest.sum), stretch.ends || rest.ends};
      }
      space.keep(1 - half, rank, stretch);
    });
    half = 1 - half;
  }
  return half;
}

/// One look at a later chunk for each thread: group g looks g + 1 chunks ahead.
template <typename Atomics, typename Real, typename Flag>
VELORA_HD inline void look_part(const GaeScan<Real, Flag>& scan, GaeSpace<Real>& space,
                                std::uint32_t rank) {
  const std::uint32_t column = rank & (scan.plan.columns() - 1);
  const std::uint32_t group = rank >> scan.plan.columns_log2;
  const std::uint64_t chunk = space.chunk + 1 + group;
  if (chunk >= scan.plan.chunks || space.first_column + column >= scan.in.width) return;
  using Mail = GaeMail<Real>;
  Real value;
  const auto state = Mail::template fetch<Atomics>(scan.mail(chunk, space.first_column + column),
                                                   scan.in.width, &value);
  space.seen[rank] = value;
  if (state == Mail::kAdvantage) Atomics::lower(space.nearest + column, group);
}

/// Folds the sums of the chunks between the nearest known advantage and this chunk. Always one
/// after the other, as those chunks do themselves, so it does not matter which is the nearest.
template <typename Real, typename Flag>
VELORA_HD inline Real fold(const GaeScan<Real, Flag>& scan, const GaeSpace<Real>& space,
                           std::uint32_t column) {
  std::uint32_t group = space.nearest[column];
  Real advantage = space.seen[(group << scan.plan.columns_log2) + column];
  while (group-- > 0) {
    const Real sum = space.seen[(group << scan.plan.columns_log2) + column];
    advantage = sum + scan.chunk_power() * advantage;
  }
  return advantage;
}

/// Tells other chunks what they need to know of this one, and learns what comes in from them.
VELORA_NO_EXEC_CHECK
template <typename Group, typename Real, typename Flag>
VELORA_HD inline void exchange(const Group& group, const GaeScan<Real, Flag>& scan,
                               GaeSpace<Real>& space, std::uint32_t half) {
  using Atomics = typename Group::Atomics;
  using Mail = GaeMail<Real>;
  const bool last = space.chunk + 1 == scan.plan.chunks;
  const auto each_column = [&](const auto& f) {
    group.run([&](std::uint32_t rank, GaeThread<Real>&) {
      const std::uint64_t column = space.first_column + rank;
      if (rank >= scan.plan.columns() || column >= scan.in.width) return;
      f(rank, space.stretch(half, rank), scan.mail(space.chunk, column));
    });
  };
  each_column([&](std::uint32_t, const GaeStretch<Real>& all, std::uint64_t* mail) {
    const auto state = last || all.ends ? Mail::kAdvantage : Mail::kSum;
    Mail::template post<Atomics>(mail, scan.in.width, all.sum, state);
  });
  if (last) return;
  const auto knows = [&](std::uint32_t rank, GaeThread<Real>&) {
    const std::uint32_t column = rank & (scan.plan.columns() - 1);
    return space.nearest[column] != GaeSpace<Real>::kNone ||
           space.first_column + column >= scan.in.width;
  };
  do {
    group.run([&](std::uint32_t rank, GaeThread<Real>&) { look_part<Atomics>(scan, space, rank); });
  } while (!group.all(knows));
  each_column([&](std::uint32_t column, const GaeStretch<Real>& all, std::uint64_t* mail) {
    const Real incoming = fold(scan, space, column);
    space.incoming[column] = incoming;
    if (all.ends) return;  // was told already
    Mail::template post<Atomics>(mail, scan.in.width, all.sum + scan.chunk_power() * incoming,
                                 Mail::kAdvantage);
  });
}

template <typename Real, typename Flag>
VELORA_HD inline void write_down_part(const GaeScan<Real, Flag>& scan, GaeSpace<Real>& space,
                                      std::uint32_t rank, std::uint32_t half) {
  Real advantage = space.incoming[rank & (scan.plan.columns() - 1)];
  const std::uint32_t next = rank + scan.plan.columns();
  if (next < kGaeThreads) {
    const std::uint32_t groups = scan.plan.groups() - (next >> scan.plan.columns_log2);
    advantage = space.stretch(half, next).advantage(scan.power(groups), advantage);
  }
  walk(scan, space, rank, advantage, [](Real& element, bool, Real found) { element = found; });
}

template <typename Real, typename Flag>
VELORA_HD inline void store_part(const GaeScan<Real, Flag>& scan, GaeSpace<Real>& space,
                                 std::uint32_t rank, const GaeThread<Real>& thread) {
  const GaeElements elements = GaeElements::of(scan, space, rank);
  for (std::uint32_t k = 0; k < kGaeSteps; ++k) {
    if (k >= elements.count) continue;
    const Real advantage = space.element(rank + k * kGaeThreads);
    scan.advantages[elements[k]] = advantage;
    scan.returns[elements[k]] = advantage + thread.values[k];
  }
}

/// All that a block does.
VELORA_NO_EXEC_CHECK
template <typename Group, typename Real, typename Flag>
VELORA_HD inline void gae_tile(const Group& group, const GaeScan<Real, Flag>& scan,
                               GaeSpace<Real>& space) {
  using Thread = GaeThread<Real>;
  group.run([&](std::uint32_t rank, Thread&) {
    if (rank == 0) claim_tile<typename Group::Atomics>(scan, space, group.block());
  });
  group.run([&](std::uint32_t rank, Thread& thread) { load_part(scan, space, rank, thread); });
  group.run([&](std::uint32_t rank, Thread&) { sum_up_part(scan, space, rank); });
  const std::uint32_t half = sum_up_groups(group, scan, space);
  if (scan.plan.chunks > 1) exchange(group, scan, space, half);
  group.run([&](std::uint32_t rank, Thread&) { write_down_part(scan, space, rank, half); });
  group.run([&](std::uint32_t rank, Thread& thread) { store_part(scan, space, rank, thread); });
}

}  // namespace velora::device
