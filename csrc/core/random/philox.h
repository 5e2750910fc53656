#pragma once

#include <cstdint>

#include "core/values/macros.h"

namespace velora {

inline constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
inline constexpr std::uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
inline constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
inline constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85u;

struct Philox4 {
  std::uint32_t word[4];
};

/// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
/// numbers: as easy as 1, 2, 3" (SC 2011). No state: the same counter and key give the same four
/// words on every device, in any order.
VELORA_HD inline Philox4 philox4x32(Philox4 counter, std::uint32_t key0, std::uint32_t key1) {
  std::uint32_t* w = counter.word;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{kPhiloxMultiplier0} * w[0];
    const std::uint64_t product1 = std::uint64_t{kPhiloxMultiplier1} * w[2];
    const Philox4 next = {static_cast<std::uint32_t>(product1 >> 32) ^ w[1] ^ key0,
                          static_cast<std::uint32_t>(product1),
                          static_cast<std::uint32_t>(product0 >> 32) ^ w[3] ^ key1,
                          static_cast<std::uint32_t>(product0)};
    counter = next;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

/// Names one stream of random numbers: draw number `draw` of the generator seeded with `seed`.
struct DrawKey {
  std::uint64_t seed;
  std::uint64_t draw;
};

/// The 64 random bits of each of two neighbouring elements, 2 * pair and 2 * pair + 1, of a draw at
/// their `attempt`-th try: one call of the generator serves both.
struct RandomPair {
  std::uint64_t bits[2];
};

VELORA_HD inline RandomPair random_pair(DrawKey key, std::uint32_t pair, std::uint32_t attempt) {
  const Philox4 counter = {pair, attempt, static_cast<std::uint32_t>(key.draw),
                           static_cast<std::uint32_t>(key.draw >> 32)};
  const Philox4 out = philox4x32(counter, static_cast<std::uint32_t>(key.seed),
                                 static_cast<std::uint32_t>(key.seed >> 32));
  return {{std::uint64_t{out.word[1]} << 32 | out.word[0],
           std::uint64_t{out.word[3]} << 32 | out.word[2]}};
}

/// The 64 random bits of one element of a draw, at its `attempt`-th try.
VELORA_HD inline std::uint64_t random_bits(DrawKey key, std::uint32_t element,
                                           std::uint32_t attempt) {
  const RandomPair pair = random_pair(key, element / 2, attempt);
  return element % 2 == 0 ? pair.bits[0] : pair.bits[1];  // indexed, a GPU would keep it in memory
}

/// The high 64 bits of a 128-bit product.
VELORA_HD inline std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((Wide{a} * b) >> 64);
#endif
}

/// A number in [0, bound) from 64 random bits, by multiply and shift (Lemire, "Fast random integer
/// generation in an interval", 2019). No value is likelier than another by more than bound / 2**64.
VELORA_HD inline std::uint64_t bounded(std::uint64_t bits, std::uint64_t bound) {
  return multiply_high(bits, bound);
}

}  // namespace velora
