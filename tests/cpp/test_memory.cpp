#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "core/memory/memory.h"
#include "core/memory/memory_limit.h"
#include "core/values/errors.h"

namespace velora {
namespace {

bool is_zero(const Memory& memory) {
  return std::all_of(memory.data(), memory.data() + memory.size(),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(Memory, AnonymousIsZeroedAlignedAndWritable) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{5000},
                                 std::size_t{2} << 20, (std::size_t{5} << 20) + 1}) {
    const Memory memory = Memory::anonymous(size, "test");
    ASSERT_EQ(memory.size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % 4096, 0u);
    EXPECT_TRUE(is_zero(memory));
    std::fill_n(memory.data(), size, std::byte{0xff});
    EXPECT_FALSE(is_zero(memory));
  }
}

TEST(Memory, LargeMappingIsAlignedToHugePages) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  const Memory memory = Memory::anonymous(3 * kHugePage, "test");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % kHugePage, 0u);
}

TEST(Memory, MoreThanTheMachineHasThrowsPurposeAndSize) {
  for (const std::size_t size : {std::size_t{1} << 60, std::numeric_limits<std::size_t>::max()}) {
    try {
      const Memory memory = Memory::anonymous(size, "capacity 7");
      ADD_FAILURE() << "granted " << size;
    } catch (const MemoryError& error) {
      const std::string text = error.what();
      EXPECT_EQ(text.find("capacity 7: "), 0u) << text;
      EXPECT_NE(text.find(std::to_string(size)), std::string::npos) << text;
    }
  }
}

/// The error of a claim that is refused.
std::string refusal(std::size_t bytes) {
  try {
    const MemoryClaim claim(bytes, "capacity 7");
  } catch (const MemoryError& error) {
    return error.what();
  }
  return {};
}

TEST(MemoryClaim, CountsUntilItEnds) {
  const std::size_t before = MemoryClaim::total();
  {
    MemoryClaim first(1000, "test");
    MemoryClaim second(std::size_t{3} << 20, "test");
    EXPECT_EQ(MemoryClaim::total(), before + 1000 + (std::size_t{3} << 20));
    const MemoryClaim part = second.split(std::size_t{1} << 20);
    first = std::move(second);
    EXPECT_EQ(MemoryClaim::total(), before + (std::size_t{3} << 20));
    EXPECT_EQ(first.bytes(), std::size_t{2} << 20);
  }
  EXPECT_EQ(MemoryClaim::total(), before);
}

TEST(MemoryClaim, AllTogetherStayWithinTheLimit) {
  const std::size_t limit = memory_limit().bytes;
  const std::size_t most = limit / 5 * 3;
  const MemoryClaim first(most, "test");
  const std::string text = refusal(most);
  EXPECT_EQ(text.find("capacity 7: needs " + std::to_string(most) + " bytes beside "), 0u) << text;
  EXPECT_NE(text.find(" has " + std::to_string(limit) + " bytes"), std::string::npos) << text;
  EXPECT_EQ(MemoryClaim::total(), most);
}

TEST(MemoryClaim, SumThatOverflowsIsRefused) {
  const MemoryClaim first(std::size_t{8} << 20, "test");
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - (std::size_t{9} << 20)}) {
    EXPECT_NE(refusal(bytes), "");
  }
  EXPECT_EQ(MemoryClaim::total(), std::size_t{8} << 20);
}

TEST(Memory, RefusedMappingNamesTheLimitOfTheAddressSpace) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer takes more of the address space than the limit is";
#endif
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  const rlimit low = {.rlim_cur = std::size_t{1} << 30, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &low), 0);
  std::string text;
  try {
    const Memory memory = Memory::anonymous(std::size_t{1} << 30, "capacity 7");
  } catch (const MemoryError& error) {
    text = error.what();
  }
  setrlimit(RLIMIT_AS, &before);
  EXPECT_NE(text.find("capacity 7: needs 1073741824 bytes, the address space of this process "
                      "(ulimit -v) is limited to 1073741824 bytes"),
            std::string::npos)
      << text;
  EXPECT_EQ(MemoryClaim::total(), 0u);
}

TEST(Memory, SmallPagesBecomeHugeAndKeepTheirBytes) {
  constexpr std::size_t kSize = 4 * Memory::kHugePage;
  Memory memory = Memory::anonymous(kSize, "test", Pages::kSmall);
  for (std::size_t at = 0; at < kSize; at += 5000) memory.data()[at] = std::byte{7};
  memory.use_huge_pages(Memory::kHugePage, 2 * Memory::kHugePage);
  for (std::size_t at = 0; at < kSize; ++at) {
    ASSERT_EQ(memory.data()[at], at % 5000 == 0 ? std::byte{7} : std::byte{0});
  }
}

TEST(Memory, MovedFromIsEmpty) {
  Memory first = Memory::anonymous(100, "test");
  std::byte* const data = first.data();
  Memory second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.size(), 100u);
  EXPECT_EQ(first.data(), nullptr);  // NOLINT(bugprone-use-after-move): what a move leaves
  EXPECT_EQ(first.size(), 0u);
}

TEST(Memory, MoveAssignmentReleasesTheOldMapping) {
  Memory memory = Memory::anonymous(100, "test");
  for (int i = 0; i < 100000; ++i) memory = Memory::anonymous(4096, "test");
  memory.data()[4095] = std::byte{1};
  Memory& self = memory;
  memory = std::move(self);
  EXPECT_EQ(memory.data()[4095], std::byte{1});
}

}  // namespace
}  // namespace velora
