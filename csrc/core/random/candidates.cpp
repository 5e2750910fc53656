#include "core/random/candidates.h"

#include <cstddef>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace velora {
namespace {

#if defined(__x86_64__)

constexpr std::size_t kAtOnce = 16;

// philox4x32() and bounded() for 16 elements: eight calls of the generator, a word
// of four of them in each register, in the lower halves of 64-bit lanes. The upper halves are
// rubbish: a product takes the lower halves alone. Two registers side by side keep a processor
// busy.
__attribute__((target("avx2"))) void fill_sixteen(DrawKey key, std::uint32_t first,
                                                  std::uint64_t bound, std::uint64_t* out) {
  constexpr int kSides = 2;
  const __m256i multiplier0 = _mm256_set1_epi64x(std::int64_t{kPhiloxMultiplier0});
  const __m256i multiplier1 = _mm256_set1_epi64x(std::int64_t{kPhiloxMultiplier1});
  const __m256i weyl0 = _mm256_set1_epi64x(std::int64_t{kPhiloxWeyl0});
  const __m256i weyl1 = _mm256_set1_epi64x(std::int64_t{kPhiloxWeyl1});
  __m256i key0 = _mm256_set1_epi64x(static_cast<std::int64_t>(key.seed));
  __m256i key1 = _mm256_set1_epi64x(static_cast<std::int64_t>(key.seed >> 32));
  __m256i word[kSides][4];
  for (int side = 0; side < kSides; ++side) {
    const std::int64_t pair = std::int64_t{first / 2} + std::int64_t{4} * side;
    word[side][0] = _mm256_set_epi64x(pair + 3, pair + 2, pair + 1, pair);
    word[side][1] = _mm256_setzero_si256();  // the first attempt
    word[side][2] = _mm256_set1_epi64x(static_cast<std::int64_t>(key.draw));
    word[side][3] = _mm256_set1_epi64x(static_cast<std::int64_t>(key.draw >> 32));
  }
  for (int round = 0; round < 10; ++round) {
    for (auto& w : word) {
      const __m256i product0 = _mm256_mul_epu32(multiplier0, w[0]);
      const __m256i product1 = _mm256_mul_epu32(multiplier1, w[2]);
      w[0] = _mm256_xor_si256(_mm256_xor_si256(w[1], key0), _mm256_srli_epi64(product1, 32));
      w[1] = product1;
      w[2] = _mm256_xor_si256(_mm256_xor_si256(w[3], key1), _mm256_srli_epi64(product0, 32));
      w[3] = product0;
    }
    key0 = _mm256_add_epi64(key0, weyl0);
    key1 = _mm256_add_epi64(key1, weyl1);
  }
  const __m256i bounds = _mm256_set1_epi64x(static_cast<std::int64_t>(bound));
  for (auto& w : word) {
    for (int half = 0; half < 4; half += 2) {  // bits are w[half + 1] << 32 | w[half]
      const __m256i carried = _mm256_srli_epi64(_mm256_mul_epu32(w[half], bounds), 32);
      const __m256i product = _mm256_mul_epu32(w[half + 1], bounds);
      w[half] = _mm256_srli_epi64(_mm256_add_epi64(product, carried), 32);
    }
    const __m256i low = _mm256_unpacklo_epi64(w[0], w[2]);   // elements 0 1 4 5
    const __m256i high = _mm256_unpackhi_epi64(w[0], w[2]);  // 2 3 6 7
    auto* to = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
    out += 8;
  }
}

#endif

}  // namespace

void fill_candidates(DrawKey key, std::uint32_t first, std::uint64_t bound,
                     std::span<std::uint64_t> out) {
  std::size_t i = 0;
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2 && first % 2 == 0 && bound <= std::numeric_limits<std::uint32_t>::max()) {
    for (; i + kAtOnce <= out.size(); i += kAtOnce) {
      fill_sixteen(key, first + static_cast<std::uint32_t>(i), bound, &out[i]);
    }
  }
#endif
  if (first % 2 != 0 && i < out.size()) out[i++] = bounded(random_bits(key, first, 0), bound);
  for (; i < out.size(); i += 2) {
    const RandomPair pair = random_pair(key, (first + static_cast<std::uint32_t>(i)) / 2, 0);
    out[i] = bounded(pair.bits[0], bound);
    if (i + 1 < out.size()) out[i + 1] = bounded(pair.bits[1], bound);
  }
}

}  // namespace velora
