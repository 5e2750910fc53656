#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace velora::testing {

/// Atomics of the launch's functors, on the host.
struct HostAtomics {
  static std::uint64_t compare_exchange(std::uint64_t* word, std::uint64_t expected,
                                        std::uint64_t desired) {
    std::atomic_ref(*word).compare_exchange_strong(expected, desired);
    return expected;
  }
  template <typename Word>
  static Word fetch_add(Word* word, Word value) {
    return std::atomic_ref(*word).fetch_add(value);
  }
  template <typename Word>
  static Word fetch_max(Word* word, Word value) {
    return replace(word, value, [](Word a, Word b) { return a < b; });
  }
  template <typename Word>
  static Word fetch_min(Word* word, Word value) {
    return replace(word, value, [](Word a, Word b) { return a > b; });
  }
  template <typename Word>
  static Word load(Word* word) {
    return std::atomic_ref(*word).load(std::memory_order_relaxed);
  }
  template <typename Word>
  static void store(Word* word, Word value) {
    std::atomic_ref(*word).store(value, std::memory_order_relaxed);
  }
  static void fence() {}  // all that counts here is ordered by itself

 private:
  template <typename Word, typename Before>
  static Word replace(Word* word, Word value, const Before& before) {
    const std::atomic_ref ref(*word);
    Word found = ref.load();
    while (before(found, value) && !ref.compare_exchange_weak(found, value)) {
    }
    return found;
  }
};

/// Calls f(i) for i < count on a few threads, each of which takes its share in an order of its own.
template <typename F>
void in_any_order(std::uint32_t count, std::uint32_t num_threads, std::uint64_t seed, const F& f) {
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < order.size(); i += num_threads) f(order[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// The threads of one block of a launch, or of all of them where they wait for each other, run by a
/// few threads of the host.
class EmulatedGroup {
 public:
  using Atomics = HostAtomics;
  using LaunchAtomics = HostAtomics;

  /// Group `number` of `count` groups of `size` threads.
  EmulatedGroup(std::uint32_t number, std::uint32_t count, std::uint32_t size, std::uint64_t seed)
      : number_(number), count_(count), size_(size), seed_(seed) {}

  std::uint32_t count() const { return count_; }
  template <typename F>
  void run(const F& f) const {
    in_any_order(size_, kHostThreads, seed_, [&](std::uint32_t rank) { f(rank, size_); });
  }
  template <typename F>
  void spread(const F& f) const {
    in_any_order(size_, kHostThreads, seed_,
                 [&](std::uint32_t rank) { f(number_ * size_ + rank, count_ * size_); });
  }
  template <typename F>
  bool agree(const F& f) const {
    return f();
  }

 private:
  static constexpr std::uint32_t kHostThreads = 3;

  std::uint32_t number_;
  std::uint32_t count_;
  std::uint32_t size_;
  std::uint64_t seed_;
};

}  // namespace velora::testing
