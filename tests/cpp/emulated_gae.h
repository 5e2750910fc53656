#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "core/returns/gae_tile.h"

namespace velora::testing {

/// How a launch of gae is run on the host.
struct GaeEmulation {
  std::uint64_t seed = 0;
  /// Blocks that run at once, and threads of the host for each of them. A block is never stopped
  /// before its end, as on a device.
  std::uint32_t blocks_at_once = 3;
  std::uint32_t threads_per_block = 1;
  /// Every so many messages that others wait for come late, so that they must look further back.
  std::uint32_t late_one_in = 16;

  /// Counts of messages that held the sum of a chunk, and no advantage yet.
  mutable std::atomic<std::uint64_t> sums_seen = 0;
};

/// Words that blocks share. The order to other words is left open, as the launch promises to need.
struct GaeHostAtomics {
  inline static thread_local const GaeEmulation* emulation = nullptr;
  inline static thread_local std::mt19937 random;

  static std::uint64_t add_one(std::uint64_t* word) {
    return std::atomic_ref(*word).fetch_add(1, std::memory_order_relaxed);
  }
  static std::uint64_t load(const std::uint64_t* word) {
    const std::atomic_ref ref(*const_cast<std::uint64_t*>(word));
    const std::uint64_t found = ref.load(std::memory_order_relaxed);
    if (found >> 32 == device::GaeMail<float>::kSum) {
      emulation->sums_seen.fetch_add(1, std::memory_order_relaxed);
    }
    return found;
  }
  static void store(std::uint64_t* word, std::uint64_t value) {
    const bool awaited = value >> 32 == device::GaeMail<float>::kAdvantage;
    if (awaited && emulation->late_one_in != 0 && random() % emulation->late_one_in == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
    }
    std::atomic_ref(*word).store(value, std::memory_order_relaxed);
  }
  static void lower(std::uint32_t* word, std::uint32_t value) {
    const std::atomic_ref ref(*word);
    std::uint32_t found = ref.load(std::memory_order_relaxed);
    while (value < found && !ref.compare_exchange_weak(found, value, std::memory_order_relaxed)) {
    }
  }
  static void pause() { std::this_thread::yield(); }
};

/// The memory of one block, full of rubbish.
template <typename Real>
struct GaeBlockMemory {
  explicit GaeBlockMemory(std::uint32_t threads_of_host)
      : barrier(threads_of_host), threads(device::kGaeThreads) {
    std::memset(&space, 0xA5, sizeof(space));
    std::memset(threads.data(), 0xA5, threads.size() * sizeof(threads[0]));
  }
  std::barrier<> barrier;
  std::atomic<bool> refused[2] = {false, false};  // by all(), one for each of two calls in turn
  device::GaeSpace<Real> space;
  std::vector<device::GaeThread<Real>> threads;
};

/// One thread of the host, as its share of a block's threads. Their order changes from phase to
/// phase.
template <typename Real>
class EmulatedGaeBlock {
 public:
  using Atomics = GaeHostAtomics;

  EmulatedGaeBlock(GaeBlockMemory<Real>& memory, const GaeEmulation& emulation,
                   std::uint64_t number, std::uint32_t share)
      : memory_(memory), emulation_(emulation), number_(number), share_(share) {
    Atomics::emulation = &emulation;
    Atomics::random.seed(static_cast<std::uint32_t>(emulation.seed * 31 + number * 7 + share));
  }

  template <typename F>
  void run(const F& f) const {
    each([&](std::uint32_t rank, device::GaeThread<Real>& thread) { f(rank, thread); });
  }
  template <typename F>
  bool all(const F& f) const {
    std::atomic<bool>& refused = memory_.refused[calls_++ % 2];
    each([&](std::uint32_t rank, device::GaeThread<Real>& thread) {
      if (!f(rank, thread)) refused = true;
    });
    const bool result = !refused;
    memory_.refused[calls_ % 2] = false;
    memory_.barrier.arrive_and_wait();
    return result;
  }
  std::uint64_t block() const { return number_; }

 private:
  template <typename F>
  void each(const F& f) const {
    const auto order = static_cast<std::uint32_t>(emulation_.seed + number_ * 37 + phase_++ * 101);
    for (std::uint32_t i = share_; i < device::kGaeThreads; i += emulation_.threads_per_block) {
      const std::uint32_t rank = (i * (2 * order + 1) + order) % device::kGaeThreads;
      f(rank, memory_.threads[rank]);
    }
    memory_.barrier.arrive_and_wait();
  }

  GaeBlockMemory<Real>& memory_;
  const GaeEmulation& emulation_;
  std::uint64_t number_;
  std::uint32_t share_;
  mutable std::uint32_t phase_ = 0;
  mutable std::uint32_t calls_ = 0;
};

template <typename Real, typename Flag>
void emulate_gae_block(const device::GaeScan<Real, Flag>& scan, const GaeEmulation& emulation,
                       std::uint64_t number) {
  GaeBlockMemory<Real> memory(emulation.threads_per_block);
  const auto run = [&](std::uint32_t share) {
    device::gae_tile(EmulatedGaeBlock<Real>(memory, emulation, number, share), scan, memory.space);
  };
  std::vector<std::thread> others;
  for (std::uint32_t share = 1; share < emulation.threads_per_block; ++share) {
    others.emplace_back(run, share);
  }
  run(0);
  for (std::thread& other : others) other.join();
}

/// Does what a launch does, with blocks that begin in any order.
inline void emulate_gae(const GaeParams& params, const GaeEmulation& emulation) {
  const std::uint64_t words =
      device::gae_scratch_words(params.steps, params.width, params.is_double);
  std::fill_n(params.scratch, words, 0);
  device::with_gae_scan(params, [&](const auto& scan) {
    std::vector<std::uint64_t> order(device::gae_tiles(scan.plan));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937_64(emulation.seed));
    std::atomic<std::size_t> next = 0;
    std::vector<std::thread> workers;
    for (std::uint32_t w = 0; w < emulation.blocks_at_once; ++w) {
      workers.emplace_back([&] {
        for (std::size_t i = next++; i < order.size(); i = next++) {
          emulate_gae_block(scan, emulation, order[i]);
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
  });
}

}  // namespace velora::testing
