#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "core/memory/memory_limit.h"
#include "core/memory/slab.h"
#include "core/values/errors.h"

namespace velora {
namespace {

TEST(SlabPool, SlabHasTheSizeAskedForInWholePages) {
  const auto pool = SlabPool::create();
  for (const std::size_t size : {0, 1, 4096, 4097, 1 << 20}) {
    const SlabReference slab = pool->acquire(size);
    EXPECT_GE(slab->size(), size);
    EXPECT_EQ(slab->size() % 4096, 0u);
    EXPECT_LT(slab->size(), size + 2 * 4096);
    std::fill_n(slab->data(), slab->size(), std::byte{1});
  }
}

TEST(SlabPool, ReleasedSlabIsUsedAgain) {
  const auto pool = SlabPool::create();
  SlabReference first = pool->acquire(10000);
  std::byte* const data = first->data();
  first.reset();
  EXPECT_EQ(pool->acquire(10000)->data(), data);
}

TEST(SlabPool, NewestReleasedSlabIsUsedFirst) {
  const auto pool = SlabPool::create();
  SlabReference old = pool->acquire(10000);
  SlabReference fresh = pool->acquire(10000);
  std::byte* const data = fresh->data();
  old.reset();
  fresh.reset();
  EXPECT_EQ(pool->acquire(10000)->data(), data);
}

TEST(SlabPool, HeldSlabIsNotHandedOut) {
  const auto pool = SlabPool::create();
  SlabReference first = pool->acquire(10000);
  first->retain();
  const SlabReference held(first.get());
  first.reset();
  EXPECT_NE(pool->acquire(10000)->data(), held->data());
}

TEST(SlabPool, SlabOfAnotherSizeIsNotUsed) {
  const auto pool = SlabPool::create();
  pool->acquire(10000);
  EXPECT_GE(pool->acquire(20000)->size(), 20000u);
}

TEST(SlabPool, SlabOutlivesThePoolsLastOwner) {
  auto pool = SlabPool::create();
  const std::weak_ptr<SlabPool> watched = pool;
  SlabReference slab = pool->acquire(10000);
  pool.reset();
  EXPECT_FALSE(watched.expired());
  slab->data()[9999] = std::byte{1};
  slab.reset();
  EXPECT_TRUE(watched.expired());
}

TEST(SlabPool, KeepsOnlySoManyIdleSlabs) {
  const auto pool = SlabPool::create();
  std::vector<SlabReference> slabs;
  for (std::size_t i = 0; i < 3 * SlabPool::kMaxIdle; ++i) slabs.push_back(pool->acquire(5000));
  for (const SlabReference& slab : slabs) {
    slab->data()[0] = std::byte{7};  // a new mapping would read zero here
  }
  slabs.clear();
  std::size_t recycled = 0;
  for (std::size_t i = 0; i < 3 * SlabPool::kMaxIdle; ++i) {
    slabs.push_back(pool->acquire(5000));
    recycled += slabs.back()->data()[0] == std::byte{7} ? 1 : 0;
  }
  EXPECT_EQ(recycled, SlabPool::kMaxIdle);
}

TEST(SlabPool, SmallSlabsOfManySizesStayWithinTheirBytes) {
  const auto pool = SlabPool::create();
  for (int round = 0; round < 3; ++round) {
    for (std::size_t size = 4096; size <= SlabPool::kLarge; size += 40960) pool->acquire(size);
  }
  EXPECT_LE(pool->idle_bytes(), SlabPool::kSmallBytes);
  EXPECT_GE(pool->idle_bytes(), SlabPool::kSmallBytes - SlabPool::kLarge);
}

constexpr std::size_t kLargeSize = std::size_t{14} << 20;

/// Whether a batch of that size finds the bytes of an earlier one.
bool recycles(SlabPool& pool, std::size_t size) {
  const SlabReference slab = pool.acquire(size);
  const bool old = slab->data()[0] == std::byte{7};
  slab->data()[0] = std::byte{7};
  return old;
}

TEST(SlabPool, OneLargeBatchLeavesNothing) {
  const auto pool = SlabPool::create();
  for (const std::size_t size : {kLargeSize, SlabPool::kLarge + 1, SlabPool::kLargeBytes / 4}) {
    SlabReference first = pool->acquire(size);
    SlabReference same_size = pool->acquire_beside(size);
    first.reset();
    same_size.reset();
    EXPECT_EQ(pool->idle_bytes(), 0u);
  }
}

TEST(SlabPool, LoopOfLargeBatchesIsServedFromTheSameMemory) {
  const auto pool = SlabPool::create();
  EXPECT_FALSE(recycles(*pool, kLargeSize));
  EXPECT_FALSE(recycles(*pool, kLargeSize));
  for (int batch = 0; batch < 5; ++batch) EXPECT_TRUE(recycles(*pool, kLargeSize));
  EXPECT_EQ(pool->idle_bytes(), kLargeSize);
}

TEST(SlabPool, LoopOfLargeBatchesAmongOthersIsServedFromTheSameMemory) {
  const auto pool = SlabPool::create();
  const auto iteration = [&] {
    const bool recycled = recycles(*pool, kLargeSize);
    const bool other = recycles(*pool, 2 * kLargeSize);
    for (std::uint64_t i = 0; i < SlabPool::kRecent - 10; ++i) pool->acquire(5000);
    return recycled && other;
  };
  EXPECT_FALSE(iteration());
  EXPECT_FALSE(iteration());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(iteration());
}

TEST(SlabPool, LargeSizeThatComesUpNoMoreIsLetGo) {
  const auto pool = SlabPool::create();
  for (int batch = 0; batch < 4; ++batch) recycles(*pool, kLargeSize);
  ASSERT_EQ(pool->idle_bytes(), kLargeSize);
  for (std::uint64_t i = 0; i <= SlabPool::kRecent; ++i) pool->acquire(5000);
  EXPECT_LE(pool->idle_bytes(), 8192u);
}

TEST(SlabPool, LargeSizeThatComesUpAfterALongTimeIsNotKept) {
  const auto pool = SlabPool::create();
  for (int batch = 0; batch < 3; ++batch) {
    recycles(*pool, kLargeSize);
    for (std::uint64_t i = 0; i <= SlabPool::kRecent; ++i) pool->acquire(5000);
    EXPECT_LE(pool->idle_bytes(), 8192u);
  }
}

TEST(SlabPool, KeepsTheNewestLargeSlabHoweverLarge) {
  const auto pool = SlabPool::create();
  constexpr std::size_t kHuge = SlabPool::kLargeBytes + (std::size_t{1} << 20);
  recycles(*pool, kHuge);
  recycles(*pool, kHuge);
  EXPECT_TRUE(recycles(*pool, kHuge));
  SlabReference first = pool->acquire(kHuge);
  SlabReference second = pool->acquire_beside(kHuge);
  first.reset();
  second.reset();
  EXPECT_EQ(pool->idle_bytes(), kHuge);
}

TEST(SlabPool, IdleMemoryMakesRoomForAnotherSize) {
  const auto pool = SlabPool::create();
  const std::size_t size = memory_limit().bytes / 8 * 5 / 4096 * 4096;
  for (int batch = 0; batch < 2; ++batch) pool->acquire(size);
  ASSERT_EQ(pool->idle_bytes(), size);
  EXPECT_EQ(pool->acquire(size + 4096)->size(), size + 4096);
}

TEST(SlabPool, AskingForTooMuchThrowsAndThePoolGoesOn) {
  const auto pool = SlabPool::create();
  EXPECT_THROW(pool->acquire(std::size_t{1} << 60), MemoryError);
  EXPECT_GE(pool->acquire(100)->size(), 100u);
}

TEST(SlabPool, ThreadsNeverShareASlab) {
  const auto pool = SlabPool::create();
  std::vector<std::thread> threads;
  std::atomic<int> torn = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 engine(static_cast<unsigned>(t));
      const auto mark = static_cast<std::byte>(t);
      std::vector<SlabReference> held;
      for (int i = 0; i < 3000; ++i) {
        held.push_back(pool->acquire(engine() % 2 == 0 ? 100 : 5000));
        std::fill_n(held.back()->data(), 100, mark);
        if (held.size() > 5) {
          std::swap(held[engine() % held.size()], held.back());
          const SlabReference slab = std::move(held.back());
          held.pop_back();
          if (!std::all_of(slab->data(), slab->data() + 100,
                           [mark](std::byte byte) { return byte == mark; })) {
            ++torn;
          }
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(torn, 0);
}

}  // namespace
}  // namespace velora
