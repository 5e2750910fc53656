#pragma once

#include <cstdint>

namespace velora {

namespace detail {
extern std::uint64_t fork_count;  // changes only while a process has a single thread
}  // namespace detail

/// How many forks lie between this process and the one that loaded this code. Who works with
/// threads compares it with what it was: a child of fork has none but the one that forked, and the
/// locks of the others stay as they were.
inline std::uint64_t fork_count() { return detail::fork_count; }

/// Tells the children of fork apart, and those of theirs: 0 in the process that loaded this code.
/// Made of the number of each fork among all of its parent, so a run that forks in the same order
/// has the same.
std::uint64_t fork_path();

}  // namespace velora
