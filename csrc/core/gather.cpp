#include "core/gather.h"

#include <algorithm>
#include <cstring>

namespace velora {
namespace {

constexpr std::uint64_t kCacheLine = 64;
// Rows in flight: enough to hide a miss, few enough for the core's load queue.
constexpr std::size_t kRowsAhead = 12;
// A longer row is a stream that the hardware prefetcher follows by itself.
constexpr std::uint64_t kPrefetchBytes = 1024;
// From here on the library's memcpy, with its dispatch on the processor, is the faster one.
constexpr std::uint64_t kInlineCopyBytes = 512;

inline void prefetch_row(const std::byte* row, std::uint64_t nbytes) {
  for (std::uint64_t offset = 0; offset < nbytes; offset += kCacheLine) {
    __builtin_prefetch(row + offset, 0, 0);
  }
}

// Short copies of a length that is only known at run time: whole words, then one word that ends
// where the copy ends and overlaps the one before.
template <std::size_t kWord>
inline void copy_words(std::byte* out, const std::byte* in, std::uint64_t nbytes) {
  std::uint64_t offset = 0;
  for (; offset + kWord <= nbytes; offset += kWord) std::memcpy(out + offset, in + offset, kWord);
  if (offset != nbytes) std::memcpy(out + nbytes - kWord, in + nbytes - kWord, kWord);
}

inline void copy_field(std::byte* out, const std::byte* in, std::uint64_t nbytes) {
  if (nbytes >= kInlineCopyBytes) {
    std::memcpy(out, in, nbytes);
  } else if (nbytes >= 16) {
    copy_words<16>(out, in, nbytes);
  } else if (nbytes >= 4) {
    copy_words<4>(out, in, nbytes);
  } else {
    copy_words<1>(out, in, nbytes);
  }
}

}  // namespace

void gather(const RowsView& view, std::span<const RowId> ids, const BatchTarget& target) {
  const std::uint64_t prefetch_bytes = std::min(view.pitch, kPrefetchBytes);
  const std::size_t count = ids.size();
  for (std::size_t i = 0; i < std::min(kRowsAhead, count); ++i) {
    prefetch_row(view.row(ids[i]), prefetch_bytes);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kRowsAhead < count) prefetch_row(view.row(ids[i + kRowsAhead]), prefetch_bytes);
    const std::byte* row = view.row(ids[i]);
    for (std::uint32_t c = 0; c < target.num_columns; ++c) {
      const Column& column = target.columns[c];
      copy_field(column.out + i * column.nbytes, row + column.row_offset, column.nbytes);
    }
    emit_step(target, i, ids[i], static_cast<std::uint8_t>(row[view.flags_offset]));
  }
}

}  // namespace velora
