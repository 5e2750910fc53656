#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/gather.h"
#include "core/random/distinct_draw.h"
#include "core/values/macros.h"

namespace velora {

/// The memory that the threads of one draw share.
struct DrawSpace {
  std::uint64_t* draw;  // its number
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
    space.draw = reinterpret_cast<std::uint64_t*>(memory);
    space.table.keys = space.draw + 1;
    space.drawn = space.table.keys + size;
    space.table.owners = reinterpret_cast<std::uint32_t*>(space.drawn + count);
    space.table.mask = size - 1;
    space.attempts = space.table.owners + size;
    return space;
  }
};

/// A draw, which the device counts by itself: a launch that is queued once and run again and again
/// draws other rows each time.
struct DrawParams {
  /// Up to here each block makes the whole draw for itself, in its own fast memory, so that blocks
  /// need not wait for each other.
  static constexpr std::uint32_t kMaxBlockDraw = 1024;

  std::uint32_t count;
  ControlBlock* control;  // on the device, as what follows
  LaunchCounters* counters;
  std::byte* space;  // only beyond kMaxBlockDraw
};
/// Every CUDA device gives a block this much without being asked.
static_assert(DrawSpace::nbytes(DrawParams::kMaxBlockDraw) <= std::size_t{48} << 10);

/// A draw and the batch of it. Of more rows than there are it is all padding.
struct SampleParams {
  GatherParams gather;
  DrawParams draw;
};

/// The batch of rows that the host names, or of rows in time order.
struct TakeParams {
  GatherParams gather;
  const std::uint64_t* ids;  // packed, in memory that the device reads; null: rows from ...
  std::uint64_t start;       // ... this position on, of lanes that all hold as many rows
};

namespace device {

/// Reads the number of the launch's draw and, when all groups have, moves it on.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void count_draw(const Group& group, const DrawParams& params,
                                 const DrawSpace& space) {
  using Atomics = typename Group::LaunchAtomics;
  group.run([&](std::uint32_t rank, std::uint32_t) {
    if (rank != 0) return;
    const std::uint64_t draw = Atomics::load(&params.control->draws);
    *space.draw = draw;
    if (is_last<Atomics>(&params.counters->drawn, group.count())) {
      Atomics::store(&params.control->draws, draw + 1);
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

/// Draws as DistinctDraw does, into `space.drawn`. Precondition: there are so many.
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

/// Makes the draw of a launch over `bound` values, if there are enough; returns whether.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline bool draw_next(const Group& group, const DrawParams& params, std::uint64_t bound,
                                const DrawSpace& space) {
  count_draw(group, params, space);
  if (bound < params.count) return false;
  draw(group, {.seed = params.control->seed, .draw = *space.draw}, bound, params.count, space);
  return true;
}

VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void sample(const Group& group, const SampleParams& params,
                             const DrawSpace& space) {
  const RowsView& view = params.gather.view;
  const bool enough = draw_next(group, params.draw, view.size(), space);
  const std::uint64_t even = even_size(params.gather);
  const auto id_of = [&](std::uint64_t i) {
    return enough ? view.locate(space.drawn[i], even) : RowId{RowId::kNoLane, 0};
  };
  group.spread([&](std::uint32_t rank, std::uint32_t size) {
    gather_part(params.gather, id_of, rank, size);
  });
}

VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void take(const Group& group, const TakeParams& params) {
  const RowsView& view = params.gather.view;
  const bool even = view.num_lanes == 1 || even_size(params.gather) != 0;
  const auto id_of = [&](std::uint64_t i) {
    if (params.ids != nullptr) return RowId::unpack(params.ids[i]);
    const std::uint64_t position = params.start + i;
    const bool is_there = even && position < view.size();
    return is_there ? view.in_time_order(position) : RowId{RowId::kNoLane, 0};
  };
  group.spread([&](std::uint32_t rank, std::uint32_t size) {
    gather_part(params.gather, id_of, rank, size);
  });
}

}  // namespace device
}  // namespace velora
