#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// What a compact row has in place of its next state: numbers of blocks (see CompactRows).
struct Links {
  static constexpr std::uint32_t kNone = UINT32_MAX;

  std::uint32_t next;
  std::uint32_t head;
};

/// Where one frame of an observation lies: in a row, or in a block.
struct FramePlace {
  const std::byte* base;
  std::int32_t frame;  // its number in the block's stack; negative: `base` is a row

  VELORA_HD const std::byte* of(std::uint64_t row_offset, std::uint64_t block_offset,
                                std::uint64_t frame_bytes) const {
    return frame < 0 ? base + row_offset
                     : base + block_offset + static_cast<std::uint64_t>(frame) * frame_bytes;
  }
};

/// The blocks beside compact rows, for host and device: a plain view.
struct CompactView {
  std::uint64_t links_offset;
  std::uint64_t block_bytes;
  std::byte* const* chunks;
  std::uint32_t chunk_log2;  // blocks of a chunk
  std::uint32_t frame_stack;

  VELORA_HD const std::byte* block(std::uint32_t number) const {
    const std::uint32_t place = number & ((std::uint32_t{1} << chunk_log2) - 1);
    return chunks[number >> chunk_log2] + place * block_bytes;
  }
  VELORA_HD Links links(const std::byte* row) const {
    Links links;
    std::memcpy(&links, __builtin_assume_aligned(row + links_offset, alignof(Links)),
                sizeof(links));
    return links;
  }

  /// Frame number `frame` of a live row's state, counted from the oldest: that of an earlier row,
  /// unless a row on the way there has a head, which holds all older frames of its own stack.
  VELORA_HD FramePlace frame_of(const RowsView& view, RowId id, std::uint32_t frame) const {
    const std::uint32_t newest = frame_stack - 1;
    for (std::uint32_t back = 0;; ++back) {
      const std::byte* row = view.row({id.lane, id.serial - back});
      if (back + frame == newest) return {.base = row, .frame = -1};
      const std::uint32_t head = links(row).head;
      if (head != Links::kNone) {
        return {.base = block(head), .frame = static_cast<std::int32_t>(frame + back)};
      }
    }
  }
  /// The same of its next state.
  VELORA_HD FramePlace next_frame_of(const RowsView& view, RowId id, std::uint32_t frame) const {
    const std::uint32_t next = links(view.row(id)).next;
    if (next == Links::kNone) return frame_of(view, {id.lane, id.serial + 1}, frame);
    return {.base = block(next), .frame = static_cast<std::int32_t>(frame)};
  }
};

}  // namespace velora
