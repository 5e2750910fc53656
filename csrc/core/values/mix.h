#pragma once

#include <cstdint>

namespace velora {

/// One number of two, in which every bit of either counts: two rounds of the finaliser of
/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). For
/// one `a`, different `b` give different results.
constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  constexpr auto finish = [](std::uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  };
  return finish(finish(a) ^ b);
}

}  // namespace velora
