#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "core/memory/block_store.h"
#include "core/values/errors.h"

namespace velora {
namespace {

std::uint32_t acquire(BlockStore& store) {
  store.reserve(1);
  return store.acquire();
}

TEST(BlockStore, BlockThatWasGivenBackIsHandedOutAgain) {
  BlockStore store(100);
  const std::uint32_t a = acquire(store);
  const std::uint32_t b = acquire(store);
  EXPECT_NE(a, b);
  EXPECT_EQ(store.num_used(), 2u);
  store.release(a);
  EXPECT_EQ(store.num_used(), 1u);
  EXPECT_EQ(acquire(store), a);
  EXPECT_EQ(store.num_used(), 2u);
}

TEST(BlockStore, BlocksKeepTheirBytesAsTheStoreGrows) {
  for (const std::size_t block_bytes : {24u, 64u, 4096u, 1u << 20, (4u << 20) + 64u}) {
    const std::size_t count =
        std::clamp<std::size_t>((std::size_t{9} << 20) / block_bytes, 3, 3000);
    BlockStore store(block_bytes);
    for (std::size_t i = 0; i < count; ++i) {
      std::byte* block = store.at(acquire(store));
      std::memcpy(block, &i, sizeof(i));
      std::memcpy(block + block_bytes - sizeof(i), &i, sizeof(i));
    }
    for (std::size_t i = 0; i < count; ++i) {
      std::size_t found[2];
      const std::byte* block = store.at(static_cast<std::uint32_t>(i));
      std::memcpy(&found[0], block, sizeof(i));
      std::memcpy(&found[1], block + block_bytes - sizeof(i), sizeof(i));
      ASSERT_EQ(found[0], i) << block_bytes;
      ASSERT_EQ(found[1], i) << block_bytes;
    }
    EXPECT_EQ(store.num_used(), count);
    EXPECT_GE(store.nbytes(), count * block_bytes);
  }
}

TEST(BlockStore, AnyOrderOfComingAndGoingHandsOutEachBlockOnce) {
  std::mt19937_64 random(1);
  BlockStore store(std::size_t{512} << 10);  // 8 blocks a chunk
  std::vector<std::uint32_t> held;
  std::size_t most = 0;
  for (int step = 0; step < 3000; ++step) {
    if (random() % 500 == 0) {
      store.clear();
      held.clear();
    }
    if (held.empty() || random() % 40 < 21) {
      const std::uint64_t count = 1 + random() % 4;
      store.reserve(count);
      for (std::uint64_t i = 0; i < count; ++i) held.push_back(store.acquire());
    } else {
      const std::size_t i = random() % held.size();
      store.release(held[i]);
      held.erase(held.begin() + static_cast<long>(i));
    }
    most = std::max(most, held.size());
    ASSERT_EQ(std::set<std::uint32_t>(held.begin(), held.end()).size(), held.size());
    ASSERT_EQ(store.num_used(), held.size());
    for (const std::uint32_t block : held) ASSERT_LT(block, most);
  }
  EXPECT_GT(most, 16u);
}

TEST(BlockStore, ClearTakesAllBackAndKeepsTheMemory) {
  BlockStore store(64);
  for (int i = 0; i < 10; ++i) acquire(store);
  store.release(4);
  const std::size_t nbytes = store.nbytes();
  store.clear();
  EXPECT_EQ(store.num_used(), 0u);
  store.reserve(10);
  for (std::uint32_t i = 0; i < 10; ++i) EXPECT_EQ(store.acquire(), i);
  EXPECT_EQ(store.nbytes(), nbytes);
}

TEST(BlockStore, ReserveAloneHandsOutNothing) {
  BlockStore store(1000);
  EXPECT_EQ(store.nbytes(), 0u);
  store.reserve(5);
  store.reserve(5);
  EXPECT_EQ(store.num_used(), 0u);
  EXPECT_EQ(acquire(store), 0u);
}

TEST(BlockStore, ReserveThatFailsChangesNothing) {
  BlockStore many(64);
  const std::uint32_t block = acquire(many);
  *many.at(block) = std::byte{7};
  const std::size_t nbytes = many.nbytes();
  EXPECT_THROW(many.reserve(std::uint64_t{1} << 32), MemoryError);
  EXPECT_EQ(many.nbytes(), nbytes);
  EXPECT_EQ(many.num_used(), 1u);
  EXPECT_EQ(*many.at(block), std::byte{7});
  EXPECT_EQ(acquire(many), 1u);

  BlockStore large(std::size_t{1} << 60);
  EXPECT_THROW(large.reserve(1), MemoryError);
  EXPECT_EQ(large.nbytes(), 0u);
  EXPECT_EQ(large.num_used(), 0u);
}

TEST(BlockStore, GrowthOfManyChunksThatFailsKeepsNone) {
  BlockStore store(std::size_t{1} << 20);
  acquire(store);
  const std::size_t nbytes = store.nbytes();
  const std::size_t claimed = MemoryClaim::total();
  EXPECT_THROW(store.reserve(std::uint64_t{1} << 31), MemoryError);  // 2 PB
  EXPECT_EQ(store.nbytes(), nbytes);
  EXPECT_EQ(MemoryClaim::total(), claimed);
}

}  // namespace
}  // namespace velora
