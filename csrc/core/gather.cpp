#include "core/gather.h"

#include <algorithm>
#include <cstring>

namespace velora {
namespace {

constexpr std::uint64_t kCacheLine = 64;
// A longer row is a stream that the hardware prefetcher follows by itself.
constexpr std::uint64_t kPrefetchBytes = 1024;
// Rows copied together while as many are on their way from memory: enough to hide a miss, few
// enough for the first-level cache.
constexpr std::size_t kBlock = 16;

/// Some rows of a batch, `count` of them from place `first` on.
struct Block {
  const std::byte* rows[kBlock];
  std::size_t first = 0;
  std::size_t count = 0;
};

/// Finds the rows of a block and asks the memory for them.
void fetch(const RowsView& view, std::span<const RowId> ids, std::size_t first, Block& block) {
  block.first = first;
  block.count = std::min(kBlock, ids.size() - first);
  const std::uint64_t nbytes = std::min(view.pitch, kPrefetchBytes);
  for (std::size_t i = 0; i < block.count; ++i) {
    block.rows[i] = view.row(ids[first + i]);
    for (std::uint64_t offset = 0; offset < nbytes; offset += kCacheLine) {
      __builtin_prefetch(block.rows[i] + offset, 0, 0);
    }
  }
}

/// Copies a column whose length is known to be kWords words, the last of them overlapping the one
/// before: no loop over a length, no call.
template <std::size_t kWordBytes, std::size_t kWords>
void copy_words(const Block& block, const Column& column) {
  std::byte* out = column.out + block.first * column.nbytes;
  for (std::size_t i = 0; i < block.count; ++i) {
    const std::byte* in = block.rows[i] + column.row_offset;
    for (std::size_t w = 0; w + 1 < kWords; ++w) {
      std::memcpy(out + w * kWordBytes, in + w * kWordBytes, kWordBytes);
    }
    std::memcpy(out + column.nbytes - kWordBytes, in + column.nbytes - kWordBytes, kWordBytes);
    out += column.nbytes;
  }
}

void copy_any(const Block& block, const Column& column) {
  std::byte* out = column.out + block.first * column.nbytes;
  for (std::size_t i = 0; i < block.count; ++i) {
    std::memcpy(out, block.rows[i] + column.row_offset, column.nbytes);
    out += column.nbytes;
  }
}

void copy_column(const Block& block, const Column& column) {
  if (column.nbytes < 16) {
    if (column.nbytes == 4) return copy_words<4, 1>(block, column);
    if (column.nbytes == 8) return copy_words<8, 1>(block, column);
    if (column.nbytes > 8) return copy_words<8, 2>(block, column);
    return copy_any(block, column);
  }
  switch ((column.nbytes + 15) / 16) {
    case 1:
      return copy_words<16, 1>(block, column);
    case 2:
      return copy_words<16, 2>(block, column);
    case 3:
      return copy_words<16, 3>(block, column);
    case 4:
      return copy_words<16, 4>(block, column);
    case 5:
      return copy_words<16, 5>(block, column);
    case 6:
      return copy_words<16, 6>(block, column);
    case 7:
      return copy_words<16, 7>(block, column);
    case 8:
      return copy_words<16, 8>(block, column);
    default:
      return copy_any(block, column);
  }
}

}  // namespace

void gather(const RowsView& view, std::span<const RowId> ids, const BatchTarget& target) {
  Block blocks[2];
  if (!ids.empty()) fetch(view, ids, 0, blocks[0]);
  for (std::size_t first = 0, turn = 0; first < ids.size(); first += kBlock, turn ^= 1) {
    const Block& block = blocks[turn];
    if (first + kBlock < ids.size()) fetch(view, ids, first + kBlock, blocks[turn ^ 1]);
    for (std::uint32_t c = 0; c < target.num_columns; ++c) copy_column(block, target.columns[c]);
    for (std::size_t i = 0; i < block.count; ++i) {
      emit_step(target, first + i, ids[first + i],
                static_cast<std::uint8_t>(block.rows[i][view.flags_offset]));
    }
  }
}

}  // namespace velora
