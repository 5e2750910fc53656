#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/batch/step.h"
#include "core/batch/target.h"
#include "core/kernels/launch.h"
#include "core/rows/compact_view.h"
#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// A column as a launch copies it: in words as wide as its address allows, so that consecutive
/// threads move consecutive words of a row. Of stacks, each frame is its own column.
struct DeviceColumn {
  std::uint64_t nbytes;
  std::byte* memory;               // of its first row
  std::uint64_t block_offset = 0;  // of the first frame in a block
  std::uint32_t row_offset = 0;
  std::uint32_t first_word = 0;  // counted through all columns before it
  Source source = Source::kRow;
  std::uint8_t word_log2 = 0;  // words of 1, 2, 4, 8 or 16 bytes
  std::uint8_t frame = 0;      // of a stack of ...
  std::uint8_t frames = 1;     // ... this many, which lie together

  VELORA_HD std::uint64_t end_word() const { return first_word + (nbytes >> word_log2); }
  VELORA_HD std::byte* row(std::uint64_t i) const { return memory + i * nbytes * frames; }
  VELORA_HD std::uint64_t frame_pitch() const { return frames > 1 ? nbytes : 0; }
};

/// Columns that travel with a launch, or lie in device memory where there are more.
struct DeviceColumns {
  static constexpr std::uint32_t kInline = 38;

  std::uint64_t words;            // in all columns of one row
  const DeviceColumn* elsewhere;  // null: here
  DeviceColumn here[kInline];

  VELORA_HD const DeviceColumn* begin() const { return elsewhere != nullptr ? elsewhere : here; }
};

/// Where a launch writes a batch.
struct DeviceBatch {
  BatchTarget target;  // without its columns
  DeviceColumns columns;
};

namespace device {

/// Moves word i, of a size that both addresses are aligned to: one wide access.
template <std::size_t kWord>
VELORA_HD inline void copy_word(std::byte* out, const std::byte* in, std::uint64_t i) {
  std::memcpy(__builtin_assume_aligned(out + i * kWord, kWord),
              __builtin_assume_aligned(in + i * kWord, kWord), kWord);
}

VELORA_HD inline void copy_word(std::uint32_t word_log2, std::byte* out, const std::byte* in,
                                std::uint64_t i) {
  switch (word_log2) {
    case 4:
      return copy_word<16>(out, in, i);
    case 3:
      return copy_word<8>(out, in, i);
    case 2:
      return copy_word<4>(out, in, i);
    case 1:
      return copy_word<2>(out, in, i);
    default:
      return copy_word<1>(out, in, i);
  }
}

VELORA_HD inline void clear_word(std::uint32_t word_log2, std::byte* out, std::uint64_t i) {
  std::memset(out + (i << word_log2), 0, std::size_t{1} << word_log2);
}

/// A thread among those that work on one row: it does each `size`-th word from `rank` on.
struct TeamMember {
  std::uint64_t rank;
  std::uint64_t size;
};

/// Calls f(i, member) in each thread for the items that it has a part in: each of `count` items has
/// a team of threads, one for each of its `words` while they last.
template <typename F>
VELORA_HD inline void each_item(std::uint64_t count, std::uint64_t words, std::uint32_t rank,
                                std::uint32_t size, const F& f) {
  const auto team = static_cast<std::uint32_t>(words < size ? words : size);
  const std::uint32_t teams = size / team;
  if (rank >= teams * team) return;
  for (std::uint64_t i = rank / team; i < count; i += teams) f(i, TeamMember{rank % team, team});
}

/// Calls f(column, word of it) for the member's words.
template <typename F>
VELORA_HD inline void each_word(const DeviceColumns& columns, TeamMember member, const F& f) {
  const DeviceColumn* column = columns.begin();
  for (std::uint64_t word = member.rank; word < columns.words; word += member.size) {
    while (word >= column->end_word()) ++column;
    f(*column, word - column->first_word);
  }
}

/// Writes padding into row `i` of the batch.
VELORA_HD inline void pad_row(const DeviceBatch& batch, std::uint64_t i, TeamMember member) {
  each_word(batch.columns, member, [&](const DeviceColumn& column, std::uint64_t word) {
    clear_word(column.word_log2, column.row(i), word);
  });
  if (member.rank != 0) return;
  emit_padding(batch.target, i);
}

/// A row and the last of the steps from it on.
struct GatheredStep {
  RowId id;
  RowId last;
  const std::byte* row;
  const std::byte* last_row;
};

/// Where a column's part of a step lies.
VELORA_HD inline const std::byte* source_of(const LaunchRows& rows, const GatheredStep& step,
                                            const DeviceColumn& column) {
  const CompactView& compact = rows.compact;
  if (column.source == Source::kRow) return step.row + column.row_offset;
  if (compact.frame_stack == 0) return step.last_row + column.row_offset;
  if (column.source == Source::kNext) {  // a block begins as a row does
    return compact.next_frame_of(rows.view, step.last, 0).base + column.row_offset;
  }
  const FrameAddress address = column.source == Source::kFrames
                                   ? compact.frame_of(rows.view, step.id, column.frame)
                                   : compact.next_frame_of(rows.view, step.last, column.frame);
  return address.of(column.row_offset, column.block_offset, column.frame_pitch());
}

/// Writes the row `id`, or padding where it is of no lane, into row `i` of the batch.
VELORA_HD inline void gather_row(const LaunchRows& rows, const DeviceBatch& batch, RowId id,
                                 std::uint64_t i, TeamMember member) {
  const RowsView& view = rows.view;
  const BatchTarget& target = batch.target;
  if (id.lane == RowId::kNoLane) return pad_row(batch, i, member);
  const std::byte* row = view.row(id);
  const std::byte* last = row;
  Lookahead ahead = {.last = id, .reward = 0.0, .discount = target.gamma};
  if (target.n_step > 1) {
    ahead = look_ahead(view, id, target);
    last = view.row(ahead.last);
  }
  const GatheredStep step = {.id = id, .last = ahead.last, .row = row, .last_row = last};
  each_word(batch.columns, member, [&](const DeviceColumn& column, std::uint64_t word) {
    copy_word(column.word_log2, column.row(i), source_of(rows, step, column), word);
  });
  if (member.rank != 0) return;
  if (target.n_step > 1) target.rewards[i] = static_cast<float>(ahead.reward);
  emit_step(target, i, id, static_cast<std::uint8_t>(row[view.flags_offset]),
            static_cast<std::uint8_t>(last[view.flags_offset]), ahead);
}

/// The number of threads that find work in `count` items of `words` words: one for each word,
/// up to a bound that keeps rank and size in 32 bits.
inline std::uint64_t useful_threads(std::uint64_t count, std::uint64_t words) {
  constexpr std::uint64_t kMany = std::uint64_t{1} << 24;
  return count >= kMany / words ? kMany : count * words;
}

}  // namespace device
}  // namespace velora
