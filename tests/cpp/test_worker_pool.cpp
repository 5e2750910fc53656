#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/threads/parts.h"
#include "core/threads/worker_pool.h"
#include "runners.h"

namespace {

bool is_child_of_fork = false;

}  // namespace

/// LeakSanitizer waits at exit for all threads that it knows of, also for those of a parent. It
/// asks here first, from its own library: hidden as all else, this would not be found.
extern "C" __attribute__((visibility("default"))) int __lsan_is_turned_off() {
  return is_child_of_fork ? 1 : 0;
}

namespace velora {
namespace {

using testing::Backwards;

/// ThreadSanitizer lets no child of a process with threads start threads.
#if defined(__SANITIZE_THREAD__)
constexpr bool kForksMayStartThreads = false;
#else
constexpr bool kForksMayStartThreads = true;
#endif

/// How often each part was done.
std::vector<int> counts(WorkerPool& pool, std::size_t num_parts, std::size_t num_threads) {
  std::vector<int> done(num_parts);
  pool.parallel_for(num_parts, num_threads, [&](std::size_t part) { ++done[part]; });
  return done;
}

/// Returns whether a child of fork, in which `body` runs, ended well.
template <typename Body>
bool succeeds_in_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a child that hangs fails
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(WorkerPool, DoesEachPartOnce) {
  WorkerPool pool;
  for (const std::size_t num_parts : {0u, 1u, 2u, 3u, 7u, 64u, 1000u}) {
    for (const std::size_t num_threads : {0u, 1u, 2u, 3u, 8u}) {
      for (int turn = 0; turn < 20; ++turn) {
        ASSERT_EQ(counts(pool, num_parts, num_threads), std::vector<int>(num_parts, 1));
      }
    }
  }
}

TEST(WorkerPool, SeveralThreadsTakePart) {
  WorkerPool pool;
  // No part ends before all have begun.
  constexpr int kThreads = 4;
  std::atomic<int> begun = 0;
  pool.parallel_for(kThreads, kThreads, [&](std::size_t) {
    ++begun;
    while (begun < kThreads) std::this_thread::yield();
  });
  EXPECT_EQ(begun, kThreads);
}

TEST(WorkerPool, NoMoreThreadsTakePartThanWereAskedFor) {
  WorkerPool pool;
  counts(pool, 100, 8);
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  pool.parallel_for(2000, 2, [&](std::size_t) {
    const int now = ++inside;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::yield();
    --inside;
  });
  EXPECT_LE(most, 2);
}

TEST(WorkerPool, WhatPartsWroteIsSeenByTheCaller) {
  WorkerPool pool;
  std::vector<std::size_t> values(5000);
  for (std::size_t turn = 0; turn < 50; ++turn) {
    pool.parallel_for(values.size(), 4, [&](std::size_t part) { values[part] += part; });
  }
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], 50 * i);
}

TEST(WorkerPool, ThrowsWhatAPartThrewAndGoesOnWorking) {
  WorkerPool pool;
  for (std::size_t bad = 0; bad < 40; ++bad) {
    for (const std::size_t num_threads : {1u, 3u}) {
      try {
        pool.parallel_for(40, num_threads, [&](std::size_t part) {
          if (part == bad) throw std::out_of_range(std::to_string(part));
        });
        FAIL() << "nothing thrown";
      } catch (const std::out_of_range& error) {
        ASSERT_EQ(error.what(), std::to_string(bad));
      }
      ASSERT_EQ(counts(pool, 40, 3), std::vector<int>(40, 1));
    }
  }
}

TEST(WorkerPool, AllPartsMayThrow) {
  WorkerPool pool;
  for (int turn = 0; turn < 100; ++turn) {
    EXPECT_THROW(pool.parallel_for(16, 4, [](std::size_t) { throw std::runtime_error("part"); }),
                 std::runtime_error);
  }
}

TEST(WorkerPool, PartsMayCallThePool) {
  WorkerPool pool;
  std::vector<std::vector<int>> done(20);
  pool.parallel_for(done.size(), 3, [&](std::size_t part) { done[part] = counts(pool, 30, 3); });
  for (const std::vector<int>& inner : done) EXPECT_EQ(inner, std::vector<int>(30, 1));
}

TEST(WorkerPool, SeveralMayCallAtOnce) {
  WorkerPool pool;
  std::vector<std::thread> callers;
  std::atomic<int> right = 0;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int turn = 0; turn < 200; ++turn) {
        right += counts(pool, 50, 3) == std::vector<int>(50, 1) ? 1 : 0;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(right, 800);
}

TEST(WorkerPool, StoppedCallersWorkAlone) {
  WorkerPool pool;
  counts(pool, 50, 4);
  pool.stop();
  const std::thread::id caller = std::this_thread::get_id();
  pool.parallel_for(50, 4, [&](std::size_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
  pool.stop();
}

TEST(WorkerPool, StopWaitsForWhoIsBeingHelped) {
  for (int turn = 0; turn < 50; ++turn) {
    auto pool = std::make_unique<WorkerPool>();
    std::atomic<bool> begun = false;
    std::thread caller([&] {
      for (int call = 0; call < 20; ++call) {
        EXPECT_EQ(counts(*pool, 30, 3), std::vector<int>(30, 1));
        begun = true;
      }
    });
    while (!begun) std::this_thread::yield();
    pool->stop();
    caller.join();
  }
}

TEST(WorkerPool, IsOneForTheProcess) {
  EXPECT_EQ(&WorkerPool::shared(), &WorkerPool::shared());
  EXPECT_TRUE(WorkerPool::shared().is_here());
}

TEST(WorkerPool, AChildOfForkStartsAnew) {
  if (!kForksMayStartThreads) GTEST_SKIP();
  WorkerPool& parents = WorkerPool::shared();
  counts(parents, 50, 3);
  EXPECT_TRUE(succeeds_in_child([&] {
    WorkerPool& own = WorkerPool::shared();
    if (&own == &parents || parents.is_here() || !own.is_here()) return false;
    if (counts(own, 50, 3) != std::vector<int>(50, 1)) return false;
    return succeeds_in_child([&] {  // and a child of the child
      return &WorkerPool::shared() != &own &&
             counts(WorkerPool::shared(), 50, 3) == std::vector<int>(50, 1);
    });
  }));
  EXPECT_EQ(&WorkerPool::shared(), &parents);
  EXPECT_EQ(counts(parents, 50, 3), std::vector<int>(50, 1));
}

TEST(WorkerPool, AForkWhileThePoolWorksIsHarmless) {
  if (!kForksMayStartThreads) GTEST_SKIP();
  std::atomic<bool> stop = false;
  std::thread caller([&] {
    while (!stop) counts(WorkerPool::shared(), 200, 3);
  });
  for (int turn = 0; turn < 20; ++turn) {
    EXPECT_TRUE(succeeds_in_child(
        [] { return counts(WorkerPool::shared(), 50, 3) == std::vector<int>(50, 1); }));
  }
  stop = true;
  caller.join();
}

TEST(WorkerPool, AProcessExitsWhetherItsThreadsAreItsOwnOrItsParents) {
  if (!kForksMayStartThreads) GTEST_SKIP();
  counts(WorkerPool::shared(), 50, 3);
  for (const bool own : {false, true}) {
    const pid_t child = fork();
    if (child == 0) {
      is_child_of_fork = true;
      alarm(60);
      if (own) counts(WorkerPool::shared(), 50, 3);
      std::exit(0);  // NOLINT(concurrency-mt-unsafe): with what runs at exit
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << own;
  }
}

TEST(Parts, MakeUpTheWhole) {
  const Backwards runner(2);
  for (const std::size_t item_bytes :
       {std::size_t{1}, std::size_t{100}, kPartBytes / 17, kPartBytes, 10 * kPartBytes}) {
    for (const std::size_t count : {1u, 2u, 15u, 16u, 17u, 1000u, 70000u}) {
      std::vector<int> done(count);
      std::size_t parts = 0;
      in_parts(&runner, count, item_bytes, 16, [&](std::size_t begin, std::size_t end) {
        ++parts;
        ASSERT_LT(begin, end);
        const std::size_t size = end - begin;
        EXPECT_TRUE(size == 1 || size * item_bytes <= kPartBytes);
        EXPECT_TRUE(begin % 16 == 0 || kPartBytes / item_bytes < 16);
        for (std::size_t i = begin; i < end; ++i) ++done[i];
      });
      EXPECT_EQ(done, std::vector<int>(count, 1));
    }
  }
}

TEST(Parts, AreOneForOneThread) {
  const Backwards one(1);
  for (const PartRunner* runner :
       {static_cast<const PartRunner*>(nullptr), static_cast<const PartRunner*>(&one)}) {
    int calls = 0;
    in_parts(runner, 100000, 1000, 16, [&](std::size_t begin, std::size_t end) {
      EXPECT_EQ(begin, 0u);
      EXPECT_EQ(end, 100000u);
      ++calls;
    });
    EXPECT_EQ(calls, 1);
  }
}

}  // namespace
}  // namespace velora
