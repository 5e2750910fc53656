#include "core/memory/memory_limit.h"

#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <vector>

namespace velora {
namespace {

std::size_t physical_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_size = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_size <= 0) return SIZE_MAX;
  return static_cast<std::size_t>(pages) * static_cast<std::size_t>(page_size);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

bool contains(const std::vector<std::string>& list, const std::string& entry) {
  for (const std::string& each : list) {
    if (each == entry) return true;
  }
  return false;
}

/// A hierarchy of groups that limits memory, and the group of this process in it.
struct Hierarchy {
  const char* file;   // in which a group's limit stands
  std::string mount;  // where the groups are directories
  std::string shown;  // the group that the mount shows as its root
  std::string group;
};

/// A line of /proc/self/cgroup is `number:controllers:group`; version 2 has number 0.
std::string group_of(const std::string& root, bool is_version_2) {
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_it = is_version_2 ? controllers.empty() && line.starts_with("0:")
                                    : contains(split(controllers, ','), "memory");
    if (is_it) return line.substr(second + 1);
  }
  return {};
}

/// A line of /proc/self/mountinfo is `id parent device root mount options ... - type source
/// options`.
std::vector<Hierarchy> hierarchies(const std::string& root) {
  constexpr std::size_t kRoot = 3;
  constexpr std::size_t kMount = 4;
  std::vector<Hierarchy> found;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> fields = split(line.substr(0, dash), ' ');
    const std::vector<std::string> kind = split(line.substr(dash + 3), ' ');
    if (fields.size() <= kMount || kind.empty()) continue;
    const bool is_version_2 = kind[0] == "cgroup2";
    const bool is_version_1 = kind[0] == "cgroup" && contains(split(kind.back(), ','), "memory");
    if (!is_version_2 && !is_version_1) continue;
    found.push_back({.file = is_version_2 ? "memory.max" : "memory.limit_in_bytes",
                     .mount = fields[kMount],
                     .shown = fields[kRoot],
                     .group = group_of(root, is_version_2)});
  }
  return found;
}

/// The group as the mount shows it: a container sees its own group as the root, by either name.
std::string group_below(const std::string& shown, const std::string& group) {
  const bool is_below = shown != "/" && group.starts_with(shown) &&
                        (group.size() == shown.size() || group[shown.size()] == '/');
  return is_below ? group.substr(shown.size()) : group;
}

/// The number in a file; SIZE_MAX for a missing one, and for "max".
std::size_t read_limit(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t bytes = 0;
  return file >> bytes ? bytes : SIZE_MAX;
}

}  // namespace

MemoryLimit memory_limit(const std::string& root) {
  MemoryLimit lowest = {.bytes = physical_memory(), .owner = "this machine"};
  for (const Hierarchy& hierarchy : hierarchies(root)) {
    std::string group = group_below(hierarchy.shown, hierarchy.group);
    while (true) {
      const std::string path = hierarchy.mount + (group == "/" ? "" : group) + "/" + hierarchy.file;
      const std::size_t bytes = read_limit(root + path);
      if (bytes < lowest.bytes) {
        lowest = {.bytes = bytes, .owner = "this process's control group (" + path + ")"};
      }
      const std::size_t parent = group.rfind('/');
      if (group == "/" || parent == std::string::npos) break;
      group.erase(parent);
    }
  }
  return lowest;
}

}  // namespace velora
