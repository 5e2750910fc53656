#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/device/store.h"
#include "core/host/batch_reader.h"
#include "core/host/store.h"
#include "emulated_runtime.h"

namespace velora::testing {

inline constexpr std::uint64_t kSeed = 0x9876543210ABCDEF;
inline void* const kStream = nullptr;

/// A batch that the device will have written when it comes to it.
struct QueuedBatch {
  Bytes expected;
  DeviceMemory memory;

  bool is_as_expected() const {
    return std::memcmp(memory.data(), expected.data(), expected.size()) == 0;
  }
};

/// A Store and a DeviceStore that are given the same rows and the same draws.
class StorePair {
 public:
  explicit StorePair(std::uint64_t capacity, RowLayout layout = mixed_layout(),
                     std::size_t half_bytes = 4096, std::uint32_t num_lanes = 1,
                     std::uint64_t runtime_seed = 0, StorageKind place = StorageKind::kDevice)
      : runtime(runtime_seed),
        host(layout, capacity, num_lanes, kSeed),
        device(std::move(layout), capacity, num_lanes, kSeed, runtime.device(), place, kStream,
               half_bytes) {}

  void append(const LaneOrder& order, std::size_t count, void* stream = kStream) {
    const RowSet rows = random_rows(random_, host.layout(), count);
    host.append(order, rows.source(), count);
    device.append(order, rows.source(), count, stream);
  }
  /// The same to the device from its own memory: all that `is_there(field)`, where the flags come
  /// after the fields.
  template <typename IsThere>
  void append_columns(LaneRange range, std::uint64_t steps, const IsThere& is_there,
                      void* stream = kStream) {
    const std::uint64_t count = steps * range.count;
    kept.push_back(std::make_unique<RowSet>(random_rows(random_, host.layout(), count)));
    const RowSource source = kept.back()->source();  // read when the device comes to it
    std::vector<std::uint32_t> lanes(count);
    for (std::uint64_t i = 0; i < count; ++i) {
      lanes[i] = range.first + static_cast<std::uint32_t>(i % range.count);
    }
    host.append({.lanes = lanes.data(), .num_lanes = host.lanes().num_lanes()}, source, count);
    const std::size_t fields = host.layout().fields().size();
    const auto there = std::make_unique<bool[]>(fields);
    for (std::size_t f = 0; f < fields; ++f) there[f] = is_there(f);
    device.append_columns(range, steps,
                          {.rows = source,
                           .on_device = there.get(),
                           .done_on_device = is_there(fields),
                           .truncated_on_device = is_there(fields + 1)},
                          stream);
  }
  void append_columns(std::uint64_t steps) {
    append_columns({0, host.lanes().num_lanes()}, steps, [](std::size_t) { return true; });
  }
  void push(std::uint32_t lane = 0, void* stream = kStream) {
    append({.lanes = &lane, .num_lanes = host.lanes().num_lanes()}, 1, stream);
  }
  void push_many(int count) {
    for (int i = 0; i < count; ++i) push();
  }
  void append_in_turn(std::size_t steps) {
    const std::uint32_t num_lanes = host.lanes().num_lanes();
    append({.lanes = nullptr, .num_lanes = num_lanes}, steps * num_lanes);
  }
  void append_anywhere(std::size_t count) {
    const std::uint32_t num_lanes = host.lanes().num_lanes();
    std::vector<std::uint32_t> lanes(count);
    for (std::uint32_t& lane : lanes) lane = static_cast<std::uint32_t>(random_() % num_lanes);
    append({.lanes = lanes.data(), .num_lanes = num_lanes}, count);
  }
  void clear() {
    host.clear();
    device.clear(kStream);
  }
  std::uint64_t size() const { return host.view().size(); }

  QueuedBatch queue_sample(std::uint64_t count, void* stream = kStream, std::uint32_t n_step = 1) {
    QueuedBatch batch = make_batch(count);
    reader_.sample(count, batch_of(count, batch.expected.data(), n_step).target());
    device.sample(count, batch_of(count, batch.memory.data(), n_step).target(), stream);
    return batch;
  }
  bool sample_is_same(std::uint64_t count, void* stream = kStream, std::uint32_t n_step = 1) {
    const QueuedBatch batch = queue_sample(count, stream, n_step);
    runtime.synchronize(stream);
    return batch.is_as_expected();
  }

  bool take_is_same(std::uint64_t start, std::uint64_t count) {
    const QueuedBatch batch = make_batch(count);
    Bytes expected(batch.expected.size());
    reader_.take(start, count, batch_of(count, expected.data()).target());
    device.take(start, count, batch_of(count, batch.memory.data()).target(), kStream);
    runtime.synchronize(kStream);
    return std::memcmp(batch.memory.data(), expected.data(), expected.size()) == 0;
  }

  /// The live rows, first as the host has them and then as the device has them.
  std::pair<Bytes, Bytes> live_rows() {
    const std::size_t bytes = size() * host.layout().pitch();
    std::pair<Bytes, Bytes> rows{Bytes(bytes), Bytes(bytes)};
    save_to(rows.first, host);
    device.settle(kStream);
    save_to(rows.second, device, kStream);
    return rows;
  }
  /// Every field of them and their flags: what lies between is nobody's.
  bool rows_are_same() {
    const auto [on_host, on_device] = live_rows();
    const RowLayout& layout = host.layout();
    const auto same = [&](std::size_t offset, std::size_t nbytes) {
      return std::memcmp(&on_host[offset], &on_device[offset], nbytes) == 0;
    };
    for (std::size_t row = 0; row < on_host.size(); row += layout.pitch()) {
      if (!same(row + layout.flags_offset(), 1)) return false;
      for (const Field& field : layout.fields()) {
        if (!same(row + field.offset, field.nbytes)) return false;
      }
    }
    return true;
  }

  std::vector<std::unique_ptr<RowSet>> kept;  // until the device has read them
  EmulatedRuntime runtime;
  Store host;
  DeviceStore device;

  Batch batch_of(std::size_t count, std::byte* memory, std::uint32_t n_step = 1) const {
    return Batch(host.layout(), count, memory, n_step);
  }
  QueuedBatch make_batch(std::size_t count) {
    const std::size_t bytes = Batch::nbytes(host.layout(), count);
    QueuedBatch batch = {Bytes(bytes), {runtime, bytes, "batch"}};
    std::memset(batch.memory.data(), 0, bytes);  // what lies between the columns
    return batch;
  }

 private:
  std::mt19937_64 random_{1};
  BatchReader reader_{host};
};

}  // namespace velora::testing
