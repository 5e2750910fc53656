#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "core/errors.h"
#include "core/memory.h"

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
