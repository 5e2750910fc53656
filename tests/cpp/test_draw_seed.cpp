#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <set>
#include <thread>
#include <vector>

#include "core/random/draw_seed.h"
#include "core/values/mix.h"

namespace velora {
namespace {

using WorkerSeed = DrawSeed::WorkerSeed;

std::uint64_t settled(DrawSeed seed, WorkerSeed worker = {}) {
  seed.settle(worker);
  EXPECT_TRUE(seed.is_settled());
  return seed.value();
}

/// The result of `compute` in a child of fork.
template <typename Compute>
std::vector<std::uint64_t> in_child(std::size_t count, const Compute& compute) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::vector<std::uint64_t> values = compute();
    const auto nbytes = static_cast<ssize_t>(values.size() * sizeof(std::uint64_t));
    _exit(write(ends[1], values.data(), static_cast<std::size_t>(nbytes)) == nbytes ? 0 : 1);
  }
  close(ends[1]);
  std::vector<std::uint64_t> values(count);
  const std::size_t nbytes = count * sizeof(std::uint64_t);
  EXPECT_EQ(read(ends[0], values.data(), nbytes), static_cast<ssize_t>(nbytes));
  close(ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  return values;
}

std::uint64_t in_child(const DrawSeed& seed, WorkerSeed worker = {}) {
  return in_child(1, [&] { return std::vector{settled(seed, worker)}; }).front();
}

TEST(DrawSeed, StaysInItsProcess) {
  DrawSeed seed(7, {});
  EXPECT_TRUE(seed.is_settled());
  in_child(seed);
  EXPECT_TRUE(seed.is_settled());
  EXPECT_EQ(settled(seed), 7u);
  EXPECT_EQ(settled(seed, 5), 7u) << "a worker's own buffer has the seed it was given there";
}

TEST(DrawSeed, IsAnotherInEachChildAndGrandchild) {
  const DrawSeed seed(7, {});
  std::set<std::uint64_t> seen = {7};
  for (int i = 0; i < 3; ++i) {
    const std::vector<std::uint64_t> family = in_child(3, [&] {
      std::vector<std::uint64_t> values = {in_child(seed), in_child(seed)};
      values.push_back(settled(seed));
      return values;
    });
    seen.insert(family.begin(), family.end());
  }
  EXPECT_EQ(seen.size(), 10u);
}

TEST(DrawSeed, OfAChildThatDrewIsAnotherInItsChildren) {
  const std::vector<std::uint64_t> family = in_child(3, [] {
    DrawSeed seed(7, {});
    seed.settle({});
    return std::vector{seed.value(), in_child(seed), in_child(seed)};
  });
  EXPECT_EQ(std::set(family.begin(), family.end()).size(), 3u);
}

TEST(DrawSeed, OfForksOfSeveralThreadsDiffer) {
  const DrawSeed seed(7, {});
  std::vector<std::uint64_t> values(16);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < values.size(); ++i) {
    threads.emplace_back([&, i] { values[i] = in_child(seed); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set(values.begin(), values.end()).size(), values.size());
}

TEST(DrawSeed, OfAWorkerComesFromTheWorkersSeedHoweverItWasStarted) {
  const DrawSeed seed(7, {});
  const std::uint64_t forked = in_child(seed, 50);
  EXPECT_EQ(in_child(seed, 50), forked);
  EXPECT_EQ(settled(DrawSeed::of_copy(7, {}, 1), 50), forked);
  EXPECT_EQ(settled(DrawSeed::of_copy(7, {}, 2), 50), forked);
  EXPECT_NE(in_child(seed, 51), forked);
  EXPECT_NE(forked, 7u);
}

TEST(DrawSeed, OfChildrenOfAWorkerDiffer) {
  const DrawSeed untouched(7, {});
  const std::vector<std::uint64_t> family = in_child(6, [&] {
    DrawSeed drawn = untouched;
    drawn.settle(50);
    const DrawSeed made(7, 50);
    return std::vector{in_child(untouched, 50), in_child(untouched, 50), in_child(drawn, 50),
                       in_child(drawn, 50),     in_child(made, 50),      in_child(made, 50)};
  });
  EXPECT_EQ(std::set(family.begin(), family.end()).size(), family.size());
}

TEST(DrawSeed, OfCopiesDifferAlsoInChildren) {
  std::set<std::uint64_t> seen = {7};
  for (std::uint64_t number = 1; number < 4; ++number) {
    DrawSeed copy = DrawSeed::of_copy(7, {}, number);
    EXPECT_FALSE(copy.is_settled());
    seen.insert(in_child(copy));
    seen.insert(settled(copy));
  }
  EXPECT_EQ(seen.size(), 7u);
}

TEST(DrawSeed, ThatIsSetIsTheOneOfThisProcess) {
  DrawSeed copy = DrawSeed::of_copy(7, {}, 1);
  const std::uint64_t version = copy.version();
  copy.set(9, {});
  EXPECT_NE(copy.version(), version);
  EXPECT_EQ(settled(copy), 9u);
  const std::uint64_t in_first = in_child(1, [] {
                                   DrawSeed seed(7, {});
                                   seed.set(9, {});
                                   return std::vector{settled(seed)};
                                 }).front();
  EXPECT_EQ(in_first, 9u);
}

TEST(Mix, IsAnotherNumberForEachPair) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t a = 0; a < 64; ++a) {
    for (std::uint64_t b = 0; b < 64; ++b) seen.insert(mix(a, b));
  }
  EXPECT_EQ(seen.size(), 64u * 64u);
}

}  // namespace
}  // namespace velora
