#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/device_kernels.h"
#include "core/device_runtime.h"
#include "core/errors.h"
#include "emulated_gae.h"

namespace velora::testing {

/// Atomics of the launch's functors, on the host.
struct HostAtomics {
  static std::uint64_t compare_exchange(std::uint64_t* word, std::uint64_t expected,
                                        std::uint64_t desired) {
    std::atomic_ref(*word).compare_exchange_strong(expected, desired);
    return expected;
  }
  static std::uint32_t fetch_max(std::uint32_t* word, std::uint32_t value) {
    const std::atomic_ref ref(*word);
    std::uint32_t found = ref.load();
    while (found < value && !ref.compare_exchange_weak(found, value)) {
    }
    return found;
  }
  static std::uint32_t load(std::uint32_t* word) {
    return std::atomic_ref(*word).load(std::memory_order_relaxed);
  }
  static void store(std::uint32_t* word, std::uint32_t value) {
    std::atomic_ref(*word).store(value, std::memory_order_relaxed);
  }
};

/// Device threads `first_rank`, ... of a launch of `size`, run by a few threads of the host, each
/// of which takes its share in an order of its own.
class EmulatedGroup {
 public:
  using Atomics = HostAtomics;

  /// `rank` counts within the group while it draws, and within the launch while it writes.
  EmulatedGroup(std::uint32_t group_size, std::uint32_t first_rank, std::uint32_t launch_size,
                std::uint64_t seed)
      : group_size_(group_size), first_rank_(first_rank), launch_size_(launch_size), seed_(seed) {}

  template <typename F>
  void run(const F& f) const {
    each([&](std::uint32_t rank) { f(rank, group_size_); });
  }
  template <typename F>
  void spread(const F& f) const {
    each([&](std::uint32_t rank) { f(first_rank_ + rank, launch_size_); });
  }

 private:
  template <typename F>
  void each(const F& f) const {
    constexpr std::uint32_t kHostThreads = 4;
    std::vector<std::uint32_t> ranks(group_size_);
    std::iota(ranks.begin(), ranks.end(), 0u);
    std::shuffle(ranks.begin(), ranks.end(), std::mt19937_64(seed_));
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < kHostThreads; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < ranks.size(); i += kHostThreads) f(ranks[i]);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::uint32_t group_size_;
  std::uint32_t first_rank_;
  std::uint32_t launch_size_;
  std::uint64_t seed_;
};

/// A device without a device. Its memory is host memory, full of rubbish when it is new. What is
/// queued on a stream is done in order, but as late as can be: only when the host waits for it. So
/// a copy whose source was written again too early copies the wrong bytes, and of two streams
/// without an event between them either may come first.
class EmulatedRuntime final : public DeviceRuntime {
 public:
  explicit EmulatedRuntime(std::uint64_t seed = 0) : random_(seed) {}

  struct Counts {
    int copies_to_device = 0;
    int launches = 0;
    int stream_waits = 0;
    int host_waits = 0;           // for which the host had to wait
    std::size_t allocations = 0;  // now
  };
  const Counts& counts() const { return counts_; }
  void limit_device_memory(std::size_t bytes) { device_limit_ = bytes; }
  void fail_next_launch() { fail_launch_ = true; }

  void* allocate_device(std::size_t bytes, const char* purpose) override {
    if (bytes > device_limit_) throw MemoryError(std::string(purpose) + ": too large");
    return allocate(bytes);
  }
  void free_device(void* memory) noexcept override { free_memory(memory); }
  void* allocate_pinned(std::size_t bytes) override { return allocate(bytes); }
  void free_pinned(void* memory) noexcept override { free_memory(memory); }

  void copy_to_device(std::byte* device, const std::byte* pinned, std::size_t bytes,
                      void* stream) override {
    ++counts_.copies_to_device;
    push(stream, [=] { std::memcpy(device, pinned, bytes); });
  }
  void copy_to_host(std::byte* host, const std::byte* device, std::size_t bytes,
                    void* stream) override {
    push(stream, [=] { std::memcpy(host, device, bytes); });
  }

  void* create_event() override {
    ++counts_.allocations;
    return new Event;
  }
  void free_event(void* event) noexcept override {
    --counts_.allocations;
    delete static_cast<Event*>(event);
  }
  void record(void* event, void* stream) override {
    auto* mark = static_cast<Event*>(event);
    const std::uint64_t number = ++mark->recorded;
    // A record that a later one has overtaken must not turn the mark back.
    push(stream, [mark, number] { mark->passed = std::max(mark->passed, number); });
  }
  void wait(void* event, void* stream) override {
    ++counts_.stream_waits;
    auto* mark = static_cast<Event*>(event);
    streams_[stream].push_back({.work = {}, .event = mark, .number = mark->recorded});
  }
  void synchronize_event(void* event) override {
    auto* mark = static_cast<Event*>(event);
    const std::uint64_t number = mark->recorded;
    if (mark->passed < number) ++counts_.host_waits;
    while (mark->passed < number) step();
  }
  void synchronize(void* stream) override {
    ++counts_.host_waits;
    while (!streams_[stream].empty()) step();
  }
  void synchronize_all() {
    for (auto& [stream, queue] : streams_) {
      while (!queue.empty()) step();
    }
  }

  void launch_sample(const SampleParams& params, void* stream) override {
    begin_launch();
    push(stream, [this, kept = std::make_shared<SampleParams>(params)] { run_sample(*kept); });
  }
  void launch_take(const TakeParams& params, void* stream) override {
    begin_launch();
    push(stream, [this, kept = std::make_shared<TakeParams>(params)] {
      each_block(kept->gather, [&](const EmulatedGroup& group) { device::take(group, *kept); });
    });
  }
  void launch_gae(const GaeParams& params, void* stream) override {
    begin_launch();
    push(stream, [params, seed = random_()] { emulate_gae(params, {.seed = seed}); });
  }

 private:
  static constexpr std::uint32_t kBlockThreads = 32;
  static constexpr std::uint64_t kMaxBlocks = 6;
  static constexpr int kRubbish = 0xA5;

  struct Event {
    std::uint64_t recorded = 0;
    std::uint64_t passed = 0;
  };
  /// Work, or a wait for the event's record of that number.
  struct Item {
    std::function<void()> work;
    Event* event = nullptr;
    std::uint64_t number = 0;
  };

  void push(void* stream, std::function<void()> work) {
    streams_[stream].push_back({.work = std::move(work)});
  }

  /// Does the next thing of any stream that can go on.
  void step() {
    std::vector<std::deque<Item>*> ready;
    for (auto& [stream, queue] : streams_) {
      if (queue.empty()) continue;
      const Item& item = queue.front();
      if (item.event == nullptr || item.event->passed >= item.number) ready.push_back(&queue);
    }
    if (ready.empty()) throw std::logic_error("all streams wait for each other");
    std::deque<Item>& queue = *ready[random_() % ready.size()];
    const Item item = std::move(queue.front());
    queue.pop_front();
    if (item.work) item.work();
  }

  void begin_launch() {
    if (std::exchange(fail_launch_, false)) throw DeviceError("launch refused");
    ++counts_.launches;
  }

  static std::uint32_t blocks(const GatherParams& params) {
    const std::uint64_t wanted =
        (device::useful_threads(params) + kBlockThreads - 1) / kBlockThreads;
    return static_cast<std::uint32_t>(std::min(wanted, kMaxBlocks));
  }

  template <typename F>
  void each_block(const GatherParams& params, const F& f) {
    std::vector<std::uint32_t> order(blocks(params));
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random_);
    const auto size = static_cast<std::uint32_t>(order.size()) * kBlockThreads;
    for (const std::uint32_t block : order) {
      f(EmulatedGroup(kBlockThreads, block * kBlockThreads, size, random_()));
    }
  }

  void run_sample(const SampleParams& params) {
    const auto count = static_cast<std::uint32_t>(params.gather.count);
    if (params.draw_space != nullptr) {
      const std::uint32_t size = blocks(params.gather) * kBlockThreads;
      device::sample(EmulatedGroup(size, 0, size, random_()), params,
                     DrawSpace::in(params.draw_space, count));
      return;
    }
    each_block(params.gather, [&](const EmulatedGroup& group) {
      std::vector<std::uint64_t> shared(DrawSpace::nbytes(count) / sizeof(std::uint64_t) + 1);
      std::memset(shared.data(), kRubbish, shared.size() * sizeof(std::uint64_t));
      device::sample(group, params,
                     DrawSpace::in(reinterpret_cast<std::byte*>(shared.data()), count));
    });
  }

  void* allocate(std::size_t bytes) {
    constexpr std::size_t kAlignment = 256;
    void* memory =
        std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (memory == nullptr) throw MemoryError("no memory");
    std::memset(memory, kRubbish, bytes);
    ++counts_.allocations;
    return memory;
  }
  void free_memory(void* memory) noexcept {
    --counts_.allocations;
    std::free(memory);
  }

  std::map<void*, std::deque<Item>> streams_;
  Counts counts_;
  std::mt19937_64 random_;
  std::size_t device_limit_ = SIZE_MAX;
  bool fail_launch_ = false;
};

}  // namespace velora::testing
