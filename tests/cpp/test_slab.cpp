#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "core/errors.h"
#include "core/slab.h"

namespace velora {
namespace {

TEST(SlabPool, SlabHasTheSizeAskedForInWholePages) {
  const auto pool = SlabPool::create();
  for (const std::size_t size : {0, 1, 4096, 4097, 1 << 20}) {
    Slab* slab = pool->acquire(size);
    EXPECT_GE(slab->size(), size);
    EXPECT_EQ(slab->size() % 4096, 0u);
    EXPECT_LT(slab->size(), size + 2 * 4096);
    std::fill_n(slab->data(), slab->size(), std::byte{1});
    slab->release();
  }
}

TEST(SlabPool, ReleasedSlabIsUsedAgain) {
  const auto pool = SlabPool::create();
  Slab* first = pool->acquire(10000);
  std::byte* const data = first->data();
  first->release();
  Slab* second = pool->acquire(10000);
  EXPECT_EQ(second->data(), data);
  second->release();
}

TEST(SlabPool, NewestReleasedSlabIsUsedFirst) {
  const auto pool = SlabPool::create();
  Slab* old = pool->acquire(10000);
  Slab* fresh = pool->acquire(10000);
  std::byte* const data = fresh->data();
  old->release();
  fresh->release();
  Slab* again = pool->acquire(10000);
  EXPECT_EQ(again->data(), data);
  again->release();
}

TEST(SlabPool, HeldSlabIsNotHandedOut) {
  const auto pool = SlabPool::create();
  Slab* held = pool->acquire(10000);
  held->retain();
  held->release();
  Slab* other = pool->acquire(10000);
  EXPECT_NE(held->data(), other->data());
  other->release();
  held->release();
}

TEST(SlabPool, SlabOfAnotherSizeIsNotUsed) {
  const auto pool = SlabPool::create();
  pool->acquire(10000)->release();
  Slab* other = pool->acquire(20000);
  EXPECT_GE(other->size(), 20000u);
  other->release();
}

TEST(SlabPool, SlabOutlivesThePoolsLastOwner) {
  auto pool = SlabPool::create();
  const std::weak_ptr<SlabPool> watched = pool;
  Slab* slab = pool->acquire(10000);
  pool.reset();
  EXPECT_FALSE(watched.expired());
  slab->data()[9999] = std::byte{1};
  slab->release();
  EXPECT_TRUE(watched.expired());
}

TEST(SlabPool, KeepsOnlySoManyIdleSlabs) {
  const auto pool = SlabPool::create();
  std::vector<Slab*> slabs;
  for (std::size_t i = 0; i < 3 * SlabPool::kMaxFree; ++i) slabs.push_back(pool->acquire(5000));
  for (Slab* slab : slabs) {
    slab->data()[0] = std::byte{7};  // a new mapping would read zero here
    slab->release();
  }
  std::size_t recycled = 0;
  for (auto& slab : slabs) {
    slab = pool->acquire(5000);
    recycled += slab->data()[0] == std::byte{7} ? 1 : 0;
  }
  EXPECT_EQ(recycled, SlabPool::kMaxFree);
  for (Slab* slab : slabs) slab->release();
}

TEST(SlabPool, KeepsTheNewestIdleSlabHoweverLarge) {
  const auto pool = SlabPool::create();
  constexpr std::size_t kHuge = SlabPool::kMaxFreeBytes + (std::size_t{1} << 20);
  Slab* slab = pool->acquire(kHuge);
  slab->data()[0] = std::byte{7};
  slab->release();
  slab = pool->acquire(kHuge);
  EXPECT_EQ(slab->data()[0], std::byte{7});
  slab->release();
}

TEST(SlabPool, AskingForTooMuchThrowsAndThePoolGoesOn) {
  const auto pool = SlabPool::create();
  EXPECT_THROW(pool->acquire(std::size_t{1} << 60), MemoryError);
  pool->acquire(100)->release();
}

TEST(SlabPool, ThreadsNeverShareASlab) {
  const auto pool = SlabPool::create();
  std::vector<std::thread> threads;
  std::atomic<int> torn = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 engine(static_cast<unsigned>(t));
      const auto mark = static_cast<std::byte>(t);
      std::vector<Slab*> held;
      for (int i = 0; i < 3000; ++i) {
        held.push_back(pool->acquire(engine() % 2 == 0 ? 100 : 5000));
        std::fill_n(held.back()->data(), 100, mark);
        if (held.size() > 5) {
          Slab* slab = held[engine() % held.size()];
          held.erase(std::find(held.begin(), held.end(), slab));
          if (!std::all_of(slab->data(), slab->data() + 100,
                           [mark](std::byte byte) { return byte == mark; })) {
            ++torn;
          }
          slab->release();
        }
      }
      for (Slab* slab : held) slab->release();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(torn, 0);
}

}  // namespace
}  // namespace velora
