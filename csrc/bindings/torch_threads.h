#pragma once

#include <cstddef>

namespace velora {

/// torch.get_num_threads(): how many threads the user grants to a piece of work on the CPU. Can
/// run code, and throws Python's errors.
std::size_t torch_threads();

}  // namespace velora
