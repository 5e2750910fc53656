// Copies of many fields at once, against memcpy.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <vector>

#include "core/memory/block_copy.h"

namespace velora {
namespace {

constexpr std::size_t kGap = 64;  // around each field, never written
constexpr std::byte kUntouched{0xee};

TEST(CopyStream, AnyLengthAndCountCopiesEachFieldAndNothingElse) {
  for (const std::size_t nbytes : {kStreamBytes, kStreamBytes + 1, kStreamBytes + 63,
                                   std::size_t{7056}, std::size_t{28224}, std::size_t{28225}}) {
    for (std::size_t count = 0; count < 4; ++count) {
      const std::size_t pitch = nbytes + kGap;
      std::vector<std::byte> in(count * pitch);
      for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::byte>(i % 251);
      std::vector<std::byte> out(count * pitch + kGap, kUntouched);
      std::vector<std::byte> expected = out;
      for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(&expected[kGap + i * pitch], &in[(count - 1 - i) * pitch], nbytes);
      }
      copy_stream(
          count, nbytes, [&](std::size_t i) { return &out[kGap + i * pitch]; },
          [&](std::size_t i) { return &in[(count - 1 - i) * pitch]; });
      EXPECT_EQ(out, expected) << count << " fields of " << nbytes << " bytes";
    }
  }
}

}  // namespace
}  // namespace velora
