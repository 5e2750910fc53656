#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/memory/memory_limit.h"

namespace velora {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kNone = std::size_t{1} << 40;  // of no machine that runs tests
const std::string kUnlimited = "9223372036854771712";

/// The files of control groups, in a directory.
class MemoryLimitOf : public ::testing::Test {
 protected:
  MemoryLimitOf() : root(fs::temp_directory_path() / ("velora-limit-" + std::to_string(getpid()))) {
    fs::remove_all(root);
  }
  ~MemoryLimitOf() override { fs::remove_all(root); }

  void write(const std::string& path, const std::string& text) const {
    const fs::path file = root.string() + path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  /// One mount of groups, and the groups of this process.
  void mount(const std::string& shown, const std::string& kind, const std::string& groups) const {
    write("/proc/self/mountinfo", "22 20 0:21 / /proc rw - proc proc rw\n31 23 0:28 " + shown +
                                      " /sys/fs/cgroup rw,relatime shared:9 - " + kind + "\n");
    write("/proc/self/cgroup", groups);
  }
  void version_2(const std::string& groups, const std::string& shown = "/") const {
    mount(shown, "cgroup2 cgroup2 rw,nsdelegate", groups);
  }
  void version_1(const std::string& groups, const std::string& shown = "/") const {
    mount(shown, "cgroup cgroup rw,cpu,memory", groups);
  }
  std::size_t bytes() const { return memory_limit(root).bytes; }

  fs::path root;
};

TEST_F(MemoryLimitOf, NoFilesIsTheMachine) {
  EXPECT_EQ(memory_limit(root).owner, "this machine");
  EXPECT_GT(bytes(), std::size_t{1} << 20);
  EXPECT_LT(bytes(), kNone);
}

TEST_F(MemoryLimitOf, GroupOfVersion2IsItsMaximum) {
  version_2("0::/user.slice/app\n");
  write("/sys/fs/cgroup/user.slice/app/memory.max", "300000\n");
  EXPECT_EQ(bytes(), 300000u);
  EXPECT_EQ(memory_limit(root).owner,
            "this process's control group (/sys/fs/cgroup/user.slice/app/memory.max)");
}

TEST_F(MemoryLimitOf, GroupWithoutMaximumIsTheMachine) {
  version_2("0::/app\n");
  write("/sys/fs/cgroup/app/memory.max", "max\n");
  EXPECT_EQ(memory_limit(root).owner, "this machine");
}

TEST_F(MemoryLimitOf, LowestOfNestedGroupsCounts) {
  version_2("0::/a/b/c\n");
  write("/sys/fs/cgroup/a/b/c/memory.max", "900000");
  write("/sys/fs/cgroup/a/b/memory.max", "max");
  write("/sys/fs/cgroup/a/memory.max", "500000");
  EXPECT_EQ(bytes(), 500000u);
  write("/sys/fs/cgroup/memory.max", "400000");
  EXPECT_EQ(bytes(), 400000u);
}

TEST_F(MemoryLimitOf, ContainerSeesItsGroupAsTheRoot) {
  version_2("0::/\n");
  write("/sys/fs/cgroup/memory.max", "700000");
  EXPECT_EQ(bytes(), 700000u);
}

TEST_F(MemoryLimitOf, GroupOfVersion1IsItsLimit) {
  version_1("5:devices:/\n4:cpu,memory:/docker/abc\n0::/\n");
  write("/sys/fs/cgroup/docker/abc/memory.limit_in_bytes", "600000");
  write("/sys/fs/cgroup/docker/memory.limit_in_bytes", kUnlimited);
  EXPECT_EQ(bytes(), 600000u);
}

TEST_F(MemoryLimitOf, MountThatShowsTheGroupAloneIsFollowed) {
  version_1("4:memory:/docker/abc/inner\n", "/docker/abc");
  write("/sys/fs/cgroup/memory.limit_in_bytes", "800000");
  EXPECT_EQ(bytes(), 800000u);
  write("/sys/fs/cgroup/inner/memory.limit_in_bytes", "200000");
  EXPECT_EQ(bytes(), 200000u);
}

TEST_F(MemoryLimitOf, GroupBesideTheOneThatIsShownIsNotTakenForIt) {
  version_1("4:memory:/docker/abcdef/inner\n", "/docker/abc");
  write("/sys/fs/cgroup/memory.limit_in_bytes", "800000");
  write("/sys/fs/cgroup/def/inner/memory.limit_in_bytes", "100");
  EXPECT_EQ(bytes(), 800000u);
  version_1("4:memory:no path\n");
  EXPECT_EQ(memory_limit(root).owner, "this machine");
}

TEST_F(MemoryLimitOf, OtherControllersSetNone) {
  mount("/", "cgroup cgroup rw,cpuset", "4:cpuset:/a\n");
  write("/sys/fs/cgroup/a/memory.limit_in_bytes", "100");
  EXPECT_EQ(memory_limit(root).owner, "this machine");
}

TEST_F(MemoryLimitOf, RubbishSetsNone) {
  write("/proc/self/mountinfo", "31 - \n - cgroup2\n\n31 23 0:28 / /sys/fs/cgroup\n");
  write("/proc/self/cgroup", "0::\n:::\nnothing\n");
  EXPECT_EQ(memory_limit(root).owner, "this machine");
  version_2("");
  write("/sys/fs/cgroup/memory.max", "many\n");
  EXPECT_EQ(memory_limit(root).owner, "this machine");
}

}  // namespace
}  // namespace velora
