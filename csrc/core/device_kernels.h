#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/draw.h"
#include "core/gather.h"
#include "core/macros.h"
#include "core/rows_view.h"

// What a launch computes, for any runtime: a CUDA grid runs it, and so does a loop on the host.
// Everything is reached through a `Group`, the threads that work on one batch:
//
//   group.run(f)       f(rank, size) in each thread that shares the draw's memory; then all wait
//   group.spread(f)    f(rank, size) in each thread of the launch, without waiting
//   Group::Atomics     what propose() needs

namespace velora {

/// A column as a launch copies it: in words as wide as its place allows, so that consecutive
/// threads move consecutive words of a row.
struct DeviceColumn {
  std::uint64_t row_offset;
  std::uint64_t nbytes;
  std::uint64_t first_word;  // counted through all columns before it
  std::byte* out;
  std::uint32_t word_log2;  // words of 1, 2, 4, 8 or 16 bytes
  bool next;                // of the row that the step leads to
};

/// What has to be known to write a batch on a device. Passed to launches by value.
struct GatherParams {
  /// So many columns travel with the launch; more lie in device memory.
  static constexpr std::uint32_t kInlineColumns = 48;

  RowsView view;       // rows and lane states in device memory
  BatchTarget target;  // without its columns
  std::uint64_t count;
  std::uint64_t words;          // in all columns of one row
  const DeviceColumn* columns;  // null: inline_columns
  DeviceColumn inline_columns[kInlineColumns];
};

/// The memory that the threads of one draw share.
struct DrawSpace {
  ClaimTable table;
  std::uint64_t* drawn;     // element -> its value, when the draw is done
  std::uint32_t* attempts;  // element -> the attempt that it holds

  static constexpr std::size_t nbytes(std::uint32_t count) {
    return claim_table_size(count) * (sizeof(std::uint64_t) + sizeof(std::uint32_t)) +
           count * (sizeof(std::uint64_t) + sizeof(std::uint32_t));
  }

  /// Lays it out in nbytes(count) of memory that is aligned to 8 bytes.
  VELORA_HD static DrawSpace in(std::byte* memory, std::uint32_t count) {
    const std::uint32_t size = claim_table_size(count);
    DrawSpace space;
    space.table.keys = reinterpret_cast<std::uint64_t*>(memory);
    space.drawn = space.table.keys + size;
    space.table.owners = reinterpret_cast<std::uint32_t*>(space.drawn + count);
    space.table.mask = size - 1;
    space.attempts = space.table.owners + size;
    return space;
  }
};

/// A draw and the batch of it.
struct SampleParams {
  /// Up to here each block makes the whole draw for itself, in its own fast memory, so that blocks
  /// need not wait for each other.
  static constexpr std::uint32_t kMaxBlockDraw = 1024;

  GatherParams gather;
  DrawKey key;
  std::byte* draw_space;  // device memory; only beyond kMaxBlockDraw
};
/// Every CUDA device gives a block this much without being asked.
static_assert(DrawSpace::nbytes(SampleParams::kMaxBlockDraw) <= std::size_t{48} << 10);

/// The batch of rows in time order, or of one row.
struct TakeParams {
  GatherParams gather;
  RowId only;           // of RowId::kNoLane: as many rows as there are to gather, from ...
  std::uint64_t start;  // ... this position on, of lanes that all hold as many rows
};

namespace device {

/// Moves word i, of a size that both places are aligned to: one wide access.
template <std::size_t kWord>
VELORA_HD inline void copy_word(std::byte* out, const std::byte* in, std::uint64_t i) {
  std::memcpy(__builtin_assume_aligned(out + i * kWord, kWord),
              __builtin_assume_aligned(in + i * kWord, kWord), kWord);
}

/// Copies word `word` of the row, or of the one that its step leads to, into place `i` of the
/// batch. `column` is one at or before the word's, and is left at it.
VELORA_HD inline void copy_row_word(const DeviceColumn*& column, const std::byte* row,
                                    const std::byte* last, std::uint64_t i, std::uint64_t word) {
  while (word - column->first_word >= column->nbytes >> column->word_log2) ++column;
  const std::byte* in = (column->next ? last : row) + column->row_offset;
  std::byte* out = column->out + i * column->nbytes;
  const std::uint64_t place = word - column->first_word;
  switch (column->word_log2) {
    case 4:
      return copy_word<16>(out, in, place);
    case 3:
      return copy_word<8>(out, in, place);
    case 2:
      return copy_word<4>(out, in, place);
    case 1:
      return copy_word<2>(out, in, place);
    default:
      return copy_word<1>(out, in, place);
  }
}

/// One thread's part of writing a batch: `id_of(i)` is the row that comes to place i.
template <typename IdOf>
VELORA_HD inline void gather_part(const GatherParams& params, const IdOf& id_of, std::uint32_t rank,
                                  std::uint32_t size) {
  // Each row has a team of threads, one for each word while they last.
  const auto team = static_cast<std::uint32_t>(params.words < size ? params.words : size);
  const std::uint32_t teams = size / team;
  if (rank >= teams * team) return;
  const DeviceColumn* columns = params.columns != nullptr ? params.columns : params.inline_columns;
  for (std::uint64_t i = rank / team; i < params.count; i += teams) {
    const RowId id = id_of(i);
    const std::byte* row = params.view.row(id);
    const std::byte* last = row;
    Lookahead ahead = {.last = id, .reward = 0.0, .discount = params.target.gamma};
    if (params.target.n_step > 1) {
      ahead = look_ahead(params.view, id, params.target);
      last = params.view.row(ahead.last);
    }
    const DeviceColumn* column = columns;
    const std::uint32_t first = rank % team;
    for (std::uint64_t word = first; word < params.words; word += team) {
      copy_row_word(column, row, last, i, word);
    }
    if (first == 0) {
      if (params.target.n_step > 1) params.target.rewards[i] = static_cast<float>(ahead.reward);
      emit_step(params.target, i, id, static_cast<std::uint8_t>(row[params.view.flags_offset]),
                static_cast<std::uint8_t>(last[params.view.flags_offset]), ahead.discount);
    }
  }
}

/// Draws as draw_distinct() does, into `space.drawn`.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void draw(const Group& group, DrawKey key, std::uint64_t bound,
                           std::uint32_t count, const DrawSpace& space) {
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t slot = rank; slot <= space.table.mask; slot += size) {
      space.table.keys[slot] = 0;
      space.table.owners[slot] = 0;
    }
  });
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t i = rank; i < count; i += size) {
      propose<typename Group::Atomics>(static_cast<std::uint32_t>(i), key, bound, space.table,
                                       space.attempts);
    }
  });
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t i = rank; i < count; i += size) {
      const auto element = static_cast<std::uint32_t>(i);
      space.drawn[i] = bounded(random_bits(key, element, space.attempts[i]), bound);
    }
  });
}

VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void sample(const Group& group, const SampleParams& params,
                             const DrawSpace& space) {
  const RowsView& view = params.gather.view;
  draw(group, params.key, view.size(), static_cast<std::uint32_t>(params.gather.count), space);
  const auto id_of = [&](std::uint64_t i) { return view.locate(space.drawn[i]); };
  group.spread([&](std::uint32_t rank, std::uint32_t size) {
    gather_part(params.gather, id_of, rank, size);
  });
}

VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void take(const Group& group, const TakeParams& params) {
  const RowsView& view = params.gather.view;
  const auto id_of = [&](std::uint64_t i) {
    return params.only.lane != RowId::kNoLane ? params.only : view.in_time_order(params.start + i);
  };
  group.spread([&](std::uint32_t rank, std::uint32_t size) {
    gather_part(params.gather, id_of, rank, size);
  });
}

/// How many threads find something to do: one for each word, up to a bound that keeps rank and
/// size in 32 bits.
inline std::uint64_t useful_threads(const GatherParams& params) {
  constexpr std::uint64_t kMany = std::uint64_t{1} << 24;
  const bool many = params.count >= kMany / params.words;
  return many ? kMany : params.count * params.words;
}

}  // namespace device
}  // namespace velora
