#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/device/runtime.h"
#include "core/values/errors.h"
#include "emulated_gae.h"
#include "emulated_group.h"

namespace velora::testing {

/// A device without a device. Its memory is host memory, full of rubbish when it is new. What is
/// queued on a stream is done in order, but as late as can be: only when the host waits for it. So
/// memory that was written again too early gives the wrong bytes, and of two streams without an
/// event between them either may come first.
class EmulatedRuntime final : public DeviceRuntime, public DeviceAllocator {
 public:
  struct Event {
    std::uint64_t recorded = 0;
    std::uint64_t passed = 0;
  };
  /// The queue of a stream: work, or a wait for an event. A graph also records.
  struct Item {
    std::function<void()> work;
    Event* event = nullptr;
    std::uint64_t number = 0;  // of the record to wait for
    bool records = false;
  };
  using Graph = std::vector<Item>;

  explicit EmulatedRuntime(std::uint64_t seed = 0) : random_(seed) {}

  struct Counts {
    int launches = 0;
    int writes = 0;  // of these
    int pieces = 0;  // that they brought
    int stream_waits = 0;
    int host_waits = 0;           // for which the host had to wait
    std::size_t allocations = 0;  // now
  };
  const Counts& counts() const { return counts_; }
  Device device() { return {*this, *this}; }
  void limit_device_memory(std::size_t bytes) { device_limit_ = bytes; }
  /// Of device memory: so many more are granted.
  void fail_allocation_after(std::size_t count) { granted_ = count; }
  void fail_next_launch() { fail_launch_ = true; }
  /// From now on a graph's wait for an event that the graph itself records is a wait for that very
  /// record, and no graph ever ends that has one.
  void graphs_wait_for_themselves() { graphs_wait_for_themselves_ = true; }
  /// From now on everything is done when it is queued.
  void run_at_once() { at_once_ = true; }

  bool is_emulated() const override { return true; }

  Piece allocate(std::size_t bytes, const char* purpose) override {
    if (bytes > device_limit_) throw MemoryError(std::string(purpose) + ": too large");
    if (granted_ == 0) throw MemoryError(std::string(purpose) + ": refused");
    --granted_;
    void* memory = allocate(bytes);
    return {.data = static_cast<std::byte*>(memory), .owner = memory};
  }
  void free(void* owner) noexcept override { free_memory(owner); }
  void* allocate_pinned(std::size_t bytes, const char* purpose) override {
    if (bytes > pinned_limit_) throw MemoryError(std::string(purpose) + ": too large");
    void* memory = allocate(bytes);
    pinned_[static_cast<const std::byte*>(memory)] = bytes;
    return memory;
  }
  void free_pinned(void* memory) noexcept override {
    pinned_.erase(static_cast<const std::byte*>(memory));
    free_memory(memory);
  }
  void limit_pinned_memory(std::size_t bytes) { pinned_limit_ = bytes; }

  void copy_to_device(std::byte* device, const std::byte* pinned, std::size_t bytes,
                      void* stream) override {
    push(stream, [=] { std::memcpy(device, pinned, bytes); });
  }
  void copy_to_host(std::byte* host, const std::byte* device, std::size_t bytes,
                    void* stream) override {
    // From the host to the host nothing keeps CUDA from copying at once, in whatever order.
    if (is_pinned(device)) return static_cast<void>(std::memcpy(host, device, bytes));
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
    require_running(stream);
    auto* mark = static_cast<Event*>(event);
    const std::uint64_t number = ++mark->recorded;
    // A record that a later one has overtaken must not turn the mark back.
    push(stream, [mark, number] { mark->passed = std::max(mark->passed, number); });
  }
  void wait(void* event, void* stream) override {
    require_running(stream);
    ++counts_.stream_waits;
    if (at_once_) return;
    auto* mark = static_cast<Event*>(event);
    streams_[stream].push_back({.work = {}, .event = mark, .number = mark->recorded});
  }
  bool has_passed(void* event) override {
    const auto* mark = static_cast<Event*>(event);
    return mark->passed == mark->recorded;
  }
  void synchronize_event(void* event) override {
    auto* mark = static_cast<Event*>(event);
    const std::uint64_t number = mark->recorded;
    if (mark->passed < number) ++counts_.host_waits;
    while (mark->passed < number) step();
  }
  void synchronize(void* stream) override {
    require_running(stream);
    ++counts_.host_waits;
    while (!streams_[stream].empty()) step();
  }
  void synchronize_all() {
    for (auto& [stream, queue] : streams_) {
      while (!queue.empty()) step();
    }
  }

  void* create_stream() override {
    ++counts_.allocations;
    return new char;
  }
  void free_stream(void* stream) noexcept override {
    --counts_.allocations;
    delete static_cast<char*>(stream);
  }
  bool is_capturing(void* stream) override { return captured_.contains(stream); }
  void wait_when_run(void* event, void* stream) override {
    captured_.at(stream).push_back({.work = {}, .event = static_cast<Event*>(event)});
  }
  void record_when_run(void* event, void* stream) override {
    captured_.at(stream).push_back(
        {.work = {}, .event = static_cast<Event*>(event), .records = true});
  }
  void begin_capture(void* stream) { captured_[stream] = {}; }
  Graph end_capture(void* stream) {
    Graph graph = std::move(captured_.at(stream));
    captured_.erase(stream);
    return graph;
  }
  bool graphs_wait_for_graphs() const override { return !graphs_wait_for_themselves_; }
  void run(const Graph& graph, void* stream) {
    for (const Item& item : graph) {
      if (item.records) {
        record(item.event, stream);
      } else if (item.event != nullptr) {
        wait(item.event, stream);
        if (graphs_wait_for_themselves_ && records(graph, item.event)) {
          ++streams_[stream].back().number;
        }
      } else {
        push(stream, item.work);
      }
    }
  }

  void launch_write(const WriteParams& params, void* stream) override {
    begin_launch();
    ++counts_.writes;
    counts_.pieces += static_cast<int>(params.count);
    push(stream, [this, params] {
      each_thread(params.count * WriteParams::kTeam, [&](std::uint32_t rank, std::uint32_t size) {
        device::write_part(params, rank, size);
      });
    });
  }
  void launch_clear(const ClearParams& params, void* stream) override {
    begin_launch();
    push(stream, [this, params] {
      each_thread(params.view.num_lanes, [&](std::uint32_t rank, std::uint32_t size) {
        device::clear_part(params, rank, size);
      });
    });
  }
  void launch_append(const AppendParams& params, void* stream) override {
    begin_launch();
    push(stream, [this, kept = std::make_shared<AppendParams>(params)] {
      const auto groups = static_cast<std::uint32_t>(kept->num_groups());
      each_group(groups, [&](const EmulatedGroup& group, std::uint32_t number) {
        device::append(group, *kept, number);
      });
    });
  }
  void launch_batch(const BatchParams& params, void* stream) override {
    begin_launch();
    push(stream, [this, kept = std::make_shared<BatchParams>(params)] { run_batch(*kept); });
  }
  void launch_sequences(const SequenceParams& params, void* stream) override {
    begin_launch();
    push(stream, [this, kept = std::make_shared<SequenceParams>(params)] {
      device::make_sequences(grid(kept->num_rows(), kept->steps), *kept);
    });
  }
  void launch_gae(const GaeParams& params, void* stream) override {
    begin_launch();
    push(stream, [params, seed = random_()] { emulate_gae(params, {.seed = seed}); });
  }

 private:
  static constexpr std::uint32_t kBlockThreads = 32;
  static constexpr std::uint64_t kMaxBlocks = 6;
  static constexpr std::uint32_t kBlocksAtOnce = 2;
  static constexpr int kRubbish = 0xA5;
  static constexpr std::size_t kRedZone = 256;

  void push(void* stream, std::function<void()> work) {
    if (is_capturing(stream)) {
      captured_.at(stream).push_back({.work = std::move(work)});
    } else if (at_once_) {
      work();
    } else {
      streams_[stream].push_back({.work = std::move(work)});
    }
  }
  bool is_pinned(const std::byte* memory) const {
    const auto after = pinned_.upper_bound(memory);
    if (after == pinned_.begin()) return false;
    const auto& [start, bytes] = *std::prev(after);
    return static_cast<std::size_t>(memory - start) < bytes;
  }
  static bool records(const Graph& graph, const Event* event) {
    return std::any_of(graph.begin(), graph.end(),
                       [&](const Item& item) { return item.records && item.event == event; });
  }
  void require_running(void* stream) {
    if (is_capturing(stream)) throw std::logic_error("cannot be captured");
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

  static std::uint32_t blocks_of(std::uint64_t threads) {
    const std::uint64_t wanted = (threads + kBlockThreads - 1) / kBlockThreads;
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(wanted, 1, kMaxBlocks));
  }
  static std::uint32_t num_blocks(std::uint64_t rows, const DeviceBatch& batch) {
    return blocks_of(device::useful_threads(rows, batch.columns.words));
  }

  /// f(group, its number), several at once.
  template <typename F>
  void each_group(std::uint32_t count, const F& f) {
    const std::uint64_t seed = random_();
    in_any_order(count, kBlocksAtOnce, seed, [&](std::uint32_t number) {
      f(EmulatedGroup(number, count, kBlockThreads, seed + number), number);
    });
  }
  template <typename F>
  void each_thread(std::uint64_t threads, const F& f) {
    each_group(blocks_of(threads),
               [&](const EmulatedGroup& group, std::uint32_t) { group.spread(f); });
  }
  EmulatedGroup grid(std::uint64_t rows, const DeviceBatch& batch) {
    return EmulatedGroup(0, 1, num_blocks(rows, batch) * kBlockThreads, random_());
  }

  void run_batch(const BatchParams& params) {
    const SelectParams& select = params.select;
    if (select.space != nullptr) {
      return device::make_batch(grid(select.count, params.batch), params, select.space);
    }
    each_group(
        num_blocks(select.count, params.batch), [&](const EmulatedGroup& group, std::uint32_t) {
          std::vector<std::uint64_t> shared(select.block_bytes() / sizeof(std::uint64_t) + 1);
          std::memset(shared.data(), kRubbish, shared.size() * sizeof(std::uint64_t));
          device::make_batch(group, params, reinterpret_cast<std::byte*>(shared.data()));
        });
  }

  /// With a red zone behind it: a device says nothing when a launch writes there.
  void* allocate(std::size_t bytes) {
    constexpr std::size_t kAlignment = 256;
    const std::size_t total = (bytes + kRedZone + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = std::aligned_alloc(kAlignment, total);
    if (memory == nullptr) throw MemoryError("no memory");
    std::memset(memory, kRubbish, total);
    sizes_[memory] = bytes;
    ++counts_.allocations;
    return memory;
  }
  void free_memory(void* memory) noexcept {
    if (memory == nullptr) return;
    const auto size = sizes_.find(memory);
    const auto* zone = static_cast<const unsigned char*>(memory) + size->second;
    if (std::any_of(zone, zone + kRedZone, [](unsigned char byte) { return byte != kRubbish; })) {
      std::fprintf(stderr, "something was written behind %zu bytes of the device\n", size->second);
      std::abort();
    }
    sizes_.erase(size);
    --counts_.allocations;
    std::free(memory);
  }

  std::map<void*, std::size_t> sizes_;  // of all memory
  std::map<void*, std::deque<Item>> streams_;
  std::map<void*, Graph> captured_;
  std::map<const std::byte*, std::size_t> pinned_;
  Counts counts_;
  std::mt19937_64 random_;
  std::size_t device_limit_ = SIZE_MAX;
  std::size_t granted_ = SIZE_MAX;
  std::size_t pinned_limit_ = SIZE_MAX;
  bool fail_launch_ = false;
  bool at_once_ = false;
  bool graphs_wait_for_themselves_ = false;
};

}  // namespace velora::testing
