#pragma once

#include <cstdint>

namespace velora {

/// How many forks lie between this process and the one that loaded this code. Who works with
/// threads compares it with what it was: a child of fork has none but the one that forked, and the
/// locks of the others stay as they were.
std::uint64_t fork_count();

}  // namespace velora
