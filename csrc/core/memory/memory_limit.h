#pragma once

#include <cstddef>
#include <string>

namespace velora {

/// The most memory that the processes of a group, or of the machine, may have together.
struct MemoryLimit {
  std::size_t bytes;
  std::string owner;  // the subject of "has 1000 bytes"
};

/// The lowest of: the machine's memory, and the limits of the control groups that this process is
/// in, of version 1 and 2, with all groups that these are part of. Reads files that the system
/// keeps; those that are missing set no limit. `root` is where /proc and /sys are: a test has its
/// own.
MemoryLimit memory_limit(const std::string& root = "");

}  // namespace velora
