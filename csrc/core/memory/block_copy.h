#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace velora {

/// Copies `nbytes` from in(i) to out(i) for each i < count, which may be a number or a type that
/// knows it. `out` and `in` hold what they need by value: what they only referred to would be read
/// again after each byte that is written. Lengths up to 128 bytes, which nearly all fields have,
/// are copied in a loop that knows the length: no loop over words, no call.
namespace block_copy {

/// kWords words, the last of them overlapping the one before.
template <std::size_t kWordBytes, std::size_t kWords, typename Count, typename Out, typename In>
void words(Count count, std::size_t nbytes, Out out, In in) {
  for (std::size_t i = 0; i < count; ++i) {
    std::byte* to = out(i);
    const std::byte* from = in(i);
    for (std::size_t w = 0; w + 1 < kWords; ++w) {
      std::memcpy(to + w * kWordBytes, from + w * kWordBytes, kWordBytes);
    }
    std::memcpy(to + nbytes - kWordBytes, from + nbytes - kWordBytes, kWordBytes);
  }
}

template <typename Count, typename Out, typename In>
void bytes(Count count, std::size_t nbytes, Out out, In in) {
  for (std::size_t i = 0; i < count; ++i) std::memcpy(out(i), in(i), nbytes);
}

}  // namespace block_copy

template <typename Count, typename Out, typename In>
void copy_block(Count count, std::size_t nbytes, Out out, In in) {
  namespace copy = block_copy;
  if (nbytes < 16) {
    if (nbytes == 4) return copy::words<4, 1>(count, nbytes, out, in);
    if (nbytes == 8) return copy::words<8, 1>(count, nbytes, out, in);
    if (nbytes > 8) return copy::words<8, 2>(count, nbytes, out, in);
    return copy::bytes(count, nbytes, out, in);
  }
  switch ((nbytes + 15) / 16) {
    case 1:
      return copy::words<16, 1>(count, nbytes, out, in);
    case 2:
      return copy::words<16, 2>(count, nbytes, out, in);
    case 3:
      return copy::words<16, 3>(count, nbytes, out, in);
    case 4:
      return copy::words<16, 4>(count, nbytes, out, in);
    case 5:
      return copy::words<16, 5>(count, nbytes, out, in);
    case 6:
      return copy::words<16, 6>(count, nbytes, out, in);
    case 7:
      return copy::words<16, 7>(count, nbytes, out, in);
    case 8:
      return copy::words<16, 8>(count, nbytes, out, in);
    default:
      return copy::bytes(count, nbytes, out, in);
  }
}

/// From this many bytes on, copy_stream() does better than copy_block() with what is not in the
/// cache.
inline constexpr std::size_t kStreamBytes = 4096;

/// The same for long fields, which are asked for while what comes before is copied: a processor
/// follows a stream to the end of a page only, and does not know where the next field lies.
/// `nbytes` is kStreamBytes or more.
template <typename Count, typename Out, typename In>
void copy_stream(Count count, std::size_t nbytes, Out out, In in) {
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kAhead = 2048;
  for (std::size_t i = 0; i < count; ++i) {
    std::byte* to = out(i);
    const std::byte* from = in(i);
    std::size_t at = 0;
    for (; at + kAhead < nbytes; at += kLine) {
      __builtin_prefetch(from + at + kAhead);
      std::memcpy(to + at, from + at, kLine);
    }
    const std::byte* next = i + 1 < count ? in(i + 1) : from;
    for (; at + kLine < nbytes; at += kLine) {
      __builtin_prefetch(next + (at + kAhead - nbytes));
      std::memcpy(to + at, from + at, kLine);
    }
    std::memcpy(to + nbytes - kLine, from + nbytes - kLine, kLine);
  }
}

}  // namespace velora
