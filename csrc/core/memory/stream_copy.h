#pragma once

#include <cstddef>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace velora {

/// Copies whole cache lines to memory that is not read soon: the processor neither fetches them
/// first nor keeps them in its caches. Both addresses are aligned to 16 bytes, and `nbytes` is a
/// multiple of 64. Other threads see the bytes after end_stream().
inline void stream_lines(std::byte* out, const std::byte* in, std::size_t nbytes) {
#if defined(__SSE2__)
  for (std::size_t i = 0; i < nbytes; i += sizeof(__m128i)) {
    const __m128i word = _mm_load_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm_stream_si128(reinterpret_cast<__m128i*>(out + i), word);
  }
#else
  std::memcpy(out, in, nbytes);
#endif
}

/// Orders all earlier stream_lines() before later writes.
inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace velora
