#pragma once

#include <cstdint>
#include <span>

#include "core/random/philox.h"

namespace velora {

/// Fills `out` with what bounded(random_bits(key, element, 0), bound) is for the elements from
/// `first` on: all of a draw's first candidates, several at a time where the processor can.
void fill_candidates(DrawKey key, std::uint32_t first, std::uint64_t bound,
                     std::span<std::uint64_t> out);

}  // namespace velora
