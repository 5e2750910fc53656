#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/launch.h"
#include "core/random/distinct_draw.h"
#include "core/random/philox.h"
#include "core/values/macros.h"

namespace velora {

/// The memory that the threads of one draw share.
struct DrawSpace {
  /// Draws of up to this many elements are made by each block for itself, in its own fast memory,
  /// so that blocks need not wait for each other.
  static constexpr std::uint32_t kMaxInBlock = 1024;

  std::uint64_t* number;  // of the draw
  ClaimTable table;
  std::uint64_t* drawn;     // element -> its value, when the draw is done
  std::uint32_t* attempts;  // element -> the attempt that it holds

  static constexpr std::size_t nbytes(std::uint32_t count) {
    const std::size_t table = claim_table_size(count);
    return (1 + table + count) * sizeof(std::uint64_t) +
           (table + most_elements(count)) * sizeof(std::uint32_t);
  }

  /// Lays it out in nbytes(count) of memory that is aligned to 8 bytes.
  VELORA_HD static DrawSpace in(std::byte* memory, std::uint32_t count) {
    const std::uint32_t size = claim_table_size(count);
    DrawSpace space;
    space.number = reinterpret_cast<std::uint64_t*>(memory);
    space.table.keys = space.number + 1;
    space.drawn = space.table.keys + size;
    space.table.owners = reinterpret_cast<std::uint32_t*>(space.drawn + count);
    space.table.mask = size - 1;
    space.attempts = space.table.owners + size;
    return space;
  }
};
/// Every CUDA device gives a block this much without being asked.
static_assert(DrawSpace::nbytes(DrawSpace::kMaxInBlock) <= std::size_t{48} << 10);

namespace device {

/// Reads the number of the launch's draw, into `number` unless that is null, and moves the device's
/// on when all groups have: a launch that is queued once and run again draws other rows each time.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void count_draw(const Group& group, ControlBlock* control,
                                 LaunchCounters* counters, std::uint64_t* number) {
  using Atomics = typename Group::LaunchAtomics;
  group.run([&](std::uint32_t rank, std::uint32_t) {
    if (rank != 0) return;
    const std::uint64_t draw = Atomics::load(&control->draws);
    if (number != nullptr) *number = draw;
    if (is_last<Atomics>(&counters->drawn, group.count())) {
      Atomics::store(&control->draws, draw + 1);
    }
  });
}

/// Sums up which slots are claimed.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void build_ranks(const Group& group, const ClaimRanks& ranks) {
  const std::uint64_t* below = nullptr;
  std::uint64_t* level = ranks.nodes;
  for (std::uint32_t below_width = ranks.size; below_width > 1;) {
    const std::uint32_t width = ClaimRanks::nodes_over(below_width);
    group.run([&](std::uint32_t rank, std::uint32_t size) {
      for (std::uint64_t node = rank; node < width; node += size) {
        const auto first = static_cast<std::uint32_t>(node) * ClaimRanks::kFanOut;
        const std::uint32_t last = first + ClaimRanks::kFanOut;
        const std::uint32_t end = last < below_width ? last : below_width;
        level[node] =
            below == nullptr ? ranks.count_slots(first, end) : ClaimRanks::sum(below, first, end);
      }
    });
    below = level;
    level += width;
    below_width = width;
  }
}

/// Draws as DistinctDraw does, into `space.drawn`. Precondition: count <= bound.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void draw(const Group& group, DrawKey key, std::uint64_t bound,
                           std::uint32_t count, const DrawSpace& space) {
  const bool most = draws_most(count, bound);
  const std::uint64_t range = most ? std::uint64_t{space.table.mask} + 1 : bound;
  const std::uint64_t elements = most ? bound : count;
  ClaimTable table = space.table;
  if (most) table.keys = nullptr;
  const ClaimRanks ranks = {
      .owners = table.owners, .nodes = space.table.keys, .size = table.mask + 1};
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t slot = rank; slot <= space.table.mask; slot += size) {
      space.table.keys[slot] = 0;
      space.table.owners[slot] = 0;
    }
  });
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t i = rank; i < elements; i += size) {
      propose<typename Group::Atomics>(static_cast<std::uint32_t>(i), key, range, table,
                                       space.attempts);
    }
  });
  if (most) build_ranks(group, ranks);
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t i = rank; i < count; i += size) {
      const auto element = static_cast<std::uint32_t>(i);
      const std::uint64_t value = bounded(random_bits(key, element, space.attempts[i]), range);
      space.drawn[i] = most ? ranks.rank(static_cast<std::uint32_t>(value)) : value;
    }
  });
}

}  // namespace device
}  // namespace velora
