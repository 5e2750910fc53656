#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// Block numbers that a compact row has instead of its next state (see CompactRule).
struct Links {
  static constexpr std::uint32_t kNone = UINT32_MAX;

  std::uint32_t next;
  std::uint32_t head;
};

/// Where one frame of an observation lies: in a row, or in a block.
struct FrameAddress {
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
    const std::uint32_t position = number & ((std::uint32_t{1} << chunk_log2) - 1);
    return chunks[number >> chunk_log2] + position * block_bytes;
  }
  VELORA_HD Links links(const std::byte* row) const {
    Links links;
    std::memcpy(&links, __builtin_assume_aligned(row + links_offset, alignof(Links)),
                sizeof(links));
    return links;
  }

  /// Frame number `frame` of a live row's state, counted from the oldest.
  VELORA_HD FrameAddress frame_of(const RowsView& view, RowId id, std::uint32_t frame) const {
    const OlderFrames older =
        walk_back(view, id, frame_stack - 1 - frame, [](std::uint32_t, const std::byte*) {});
    if (older.head == Links::kNone) return {.base = older.row, .frame = -1};
    return older_frame(older, frame);
  }
  /// The same of its next state.
  VELORA_HD FrameAddress next_frame_of(const RowsView& view, RowId id, std::uint32_t frame) const {
    const std::uint32_t next = links(view.row(id)).next;
    if (next == Links::kNone) return frame_of(view, {id.lane, id.serial + 1}, frame);
    return {.base = block(next), .frame = static_cast<std::int32_t>(frame)};
  }

  /// All frame_stack frames of a live row's state, oldest first, for what one walk costs.
  VELORA_HD void find_state(const RowsView& view, RowId id, FrameAddress* frames) const {
    const std::uint32_t newest = frame_stack - 1;
    const OlderFrames older =
        walk_back(view, id, newest, [&](std::uint32_t back, const std::byte* row) {
          frames[newest - back] = {.base = row, .frame = -1};
        });
    if (older.head == Links::kNone) return;
    for (std::uint32_t f = 0; f < newest - older.back; ++f) frames[f] = older_frame(older, f);
  }
  /// The same of its next state.
  VELORA_HD void find_next_state(const RowsView& view, RowId id, FrameAddress* frames) const {
    const std::uint32_t next = links(view.row(id)).next;
    if (next == Links::kNone) return find_state(view, {id.lane, id.serial + 1}, frames);
    const std::byte* base = block(next);
    for (std::uint32_t f = 0; f < frame_stack; ++f) {
      frames[f] = {.base = base, .frame = static_cast<std::int32_t>(f)};
    }
  }

 private:
  /// The row that lies `back` rows before another, and the block with the frames before its own, if
  /// it has one.
  struct OlderFrames {
    const std::byte* row;
    std::uint32_t back;
    std::uint32_t head;
  };

  /// Goes back from a row whose state is looked for, each of whose older frames is the newest of an
  /// earlier row, unless a row on the way there has a head: to that row, or `most` rows back. Calls
  /// visit(back, row) for each.
  template <typename Visit>
  VELORA_HD OlderFrames walk_back(const RowsView& view, RowId id, std::uint32_t most,
                                  const Visit& visit) const {
    for (std::uint32_t back = 0;; ++back) {
      const std::byte* row = view.row({id.lane, id.serial - back});
      visit(back, row);
      const std::uint32_t head = back == most ? Links::kNone : links(row).head;
      if (back == most || head != Links::kNone) return {.row = row, .back = back, .head = head};
    }
  }
  /// Frame `frame` of the state that the walk began with: `back` frames further up in the block.
  VELORA_HD FrameAddress older_frame(const OlderFrames& older, std::uint32_t frame) const {
    return {.base = block(older.head), .frame = static_cast<std::int32_t>(frame + older.back)};
  }
};

}  // namespace velora
