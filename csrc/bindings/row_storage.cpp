#include "bindings/row_storage.h"

#include <utility>

#include "bindings/cuda_library.h"
#include "bindings/exchange_api.h"
#include "core/device_store.h"
#include "core/errors.h"
#include "core/store.h"

namespace velora {
namespace {

class HostRows final : public RowStorage {
 public:
  HostRows(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
           std::uint64_t seed)
      : store_(std::move(layout), lane_capacity, num_lanes, seed) {}

  const RowLayout& layout() const override { return store_.layout(); }
  Lanes& lanes() override { return store_.lanes(); }
  RowsView view() const override { return store_.view(); }
  std::size_t nbytes() const override { return store_.nbytes(); }

  void append(const LaneOrder& lanes, const RowSource& source, std::size_t count) override {
    store_.append(lanes, source, count);
  }
  void end_episode(std::uint32_t lane) override { store_.end_episode(lane); }
  void clear() override { store_.clear(); }
  void sample(std::size_t count, const BatchTarget& target, const PartRunner* runner) override {
    sampler_.sample(store_, count, target, runner);
  }
  void take(std::uint64_t start, std::size_t count, const BatchTarget& target,
            const PartRunner* runner) override {
    sampler_.take(store_, start, count, target, runner);
  }
  std::uint64_t count_sequences(const SequenceSpec& spec) override {
    return Sampler::count_sequences(store_, spec);
  }
  void sample_sequences(const SequenceSpec& spec, std::size_t count, const SequenceTarget& target,
                        const PartRunner* runner) override {
    sampler_.sample_sequences(store_, spec, count, target, runner);
  }
  std::vector<std::byte> save(std::span<std::byte> rows) override { return store_.save(rows); }
  void restore(std::span<const SavedLane> lanes, std::span<const std::byte> rows,
               std::span<const std::byte> blocks) override {
    store_.restore(lanes, rows, blocks);
  }

 private:
  Store store_;
  Sampler sampler_;
};

/// Everything goes to torch's current stream. Rows are whole, and sequences are not drawn.
class CudaRows final : public RowStorage {
 public:
  CudaRows(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
           std::uint64_t seed, int device)
      : device_(device),
        store_(std::move(layout), lane_capacity, num_lanes, seed, cuda_runtime(device)) {}

  const RowLayout& layout() const override { return store_.layout(); }
  Lanes& lanes() override { return store_.lanes(); }
  RowsView view() const override { return store_.view(); }
  std::size_t nbytes() const override { return store_.nbytes(); }

  void append(const LaneOrder& lanes, const RowSource& source, std::size_t count) override {
    store_.append(lanes, source, count, current_stream(device_));
  }
  void end_episode(std::uint32_t lane) override { store_.end_episode(lane); }
  void clear() override { store_.clear(); }
  void sample(std::size_t count, const BatchTarget& target, const PartRunner* /*runner*/) override {
    store_.sample(count, target, current_stream(device_));
  }
  void take(std::uint64_t start, std::size_t count, const BatchTarget& target,
            const PartRunner* /*runner*/) override {
    store_.take(start, count, target, current_stream(device_));
  }
  std::uint64_t count_sequences(const SequenceSpec& spec) override { return refuse(spec); }
  void sample_sequences(const SequenceSpec& spec, std::size_t /*count*/,
                        const SequenceTarget& /*target*/, const PartRunner* /*runner*/) override {
    refuse(spec);
  }
  std::vector<std::byte> save(std::span<std::byte> rows) override {
    store_.save(rows, current_stream(device_));
    return {};
  }
  void restore(std::span<const SavedLane> lanes, std::span<const std::byte> rows,
               std::span<const std::byte> blocks) override {
    if (!blocks.empty()) throw ValueError("blocks: expected none on a CUDA device");
    store_.restore(lanes, rows, current_stream(device_));
  }

 private:
  [[noreturn]] static std::uint64_t refuse(const SequenceSpec& spec) {
    throw DeviceError("sample_sequences: sequences of " + std::to_string(spec.length) +
                      " steps cannot be drawn from rows on a CUDA device; make the buffer with "
                      "device='cpu' and move its batches");
  }

  int device_;
  DeviceStore store_;
};

}  // namespace

std::unique_ptr<RowStorage> make_row_storage(RowLayout layout, std::uint64_t lane_capacity,
                                             std::uint32_t num_lanes, std::uint64_t seed,
                                             std::optional<int> device) {
  if (!device) {
    return std::make_unique<HostRows>(std::move(layout), lane_capacity, num_lanes, seed);
  }
  if (layout.compact()) {
    throw ValueError("compact: expected False for rows on a CUDA device, got True");
  }
  return std::make_unique<CudaRows>(std::move(layout), lane_capacity, num_lanes, seed, *device);
}

}  // namespace velora
