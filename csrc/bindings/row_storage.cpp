#include "bindings/row_storage.h"

#include <stdexcept>
#include <utility>

#include "core/device/store.h"
#include "core/host/store.h"
#include "core/values/errors.h"

namespace velora {
namespace {

class HostRows final : public RowStorage {
 public:
  HostRows(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
           std::uint64_t seed)
      : store_(std::move(layout), lane_capacity, num_lanes, seed) {}

  const RowLayout& layout() const override { return store_.layout(); }
  Lanes& lanes() override { return store_.lanes(); }
  RowsView view() override { return store_.view(); }
  std::size_t nbytes() const override { return store_.nbytes(); }
  const Store* host_store() const override { return &store_; }

  void reserve(std::size_t rows) override { store_.reserve(rows); }
  void append(const LaneOrder& lanes, const RowSource& source, std::size_t count) override {
    store_.append(lanes, source, count);
  }
  void end_episode(std::uint32_t lane) override { store_.end_episode(lane); }
  void clear() override { store_.clear(); }
  void sample(std::size_t count, const BatchTarget& target, const PartRunner* runner) override {
    reader_.sample(count, target, runner);
  }
  void take(std::uint64_t start, std::size_t count, const BatchTarget& target,
            const PartRunner* runner) override {
    reader_.take(start, count, target, runner);
  }
  std::uint64_t count_sequences(const SequenceSpec& spec) override {
    return reader_.count_sequences(spec);
  }
  void sample_sequences(const SequenceSpec& spec, std::size_t count, const SequenceTarget& target,
                        const PartRunner* runner) override {
    reader_.sample_sequences(spec, count, target, runner);
  }
  void set_seed(std::uint64_t seed) override { store_.set_seed(seed); }
  void save(std::span<std::byte> rows, const BlockMemory& block_memory) override {
    store_.save(rows, block_memory);
  }
  void restore(const SavedRows& saved, std::uint64_t draws) override {
    store_.restore(saved);
    store_.lanes().set_draws(draws);
  }

 private:
  Store store_;
  BatchReader reader_{store_};
};

/// Everything goes to torch's current stream.
class DeviceRows final : public RowStorage {
 public:
  DeviceRows(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
             std::uint64_t seed, RowsPlace place, TorchDevice& device)
      : device_(device),
        store_(std::move(layout), lane_capacity, num_lanes, seed, device.device(), place,
               stream()) {}

  const RowLayout& layout() const override { return store_.layout(); }
  Lanes& lanes() override { return store_.lanes(); }
  RowsView view() override { return store_.view(); }
  std::uint64_t size() override { return store_.size(); }
  std::uint64_t fullest() override { return store_.fullest(); }
  std::size_t nbytes() const override { return store_.nbytes(); }

  void reserve(std::size_t rows) override { store_.reserve(rows, stream()); }
  void append(const LaneOrder& lanes, const RowSource& source, std::size_t count) override {
    store_.append(lanes, source, count, stream());
  }
  bool takes_columns() const override { return !layout().compact(); }
  void append_columns(LaneRange lanes, std::uint64_t steps, const MixedSource& source) override {
    store_.append_columns(lanes, steps, source, stream());
  }
  void end_episode(std::uint32_t lane) override { store_.end_episode(lane, stream()); }
  void clear() override { store_.clear(stream()); }
  void sample(std::size_t count, const BatchTarget& target, const PartRunner* /*runner*/) override {
    store_.sample(count, target, stream());
  }
  void take(std::uint64_t start, std::size_t count, const BatchTarget& target,
            const PartRunner* /*runner*/) override {
    store_.take(start, count, target, stream());
  }
  std::uint64_t count_sequences(const SequenceSpec& spec) override {
    return store_.count_sequences(spec, stream());
  }
  void sample_sequences(const SequenceSpec& spec, std::size_t count, const SequenceTarget& target,
                        const PartRunner* /*runner*/) override {
    store_.sample_sequences(spec, count, target, stream());
  }
  void settle() override { store_.settle(stream()); }
  void set_seed(std::uint64_t seed) override { store_.set_seed(seed, stream()); }
  void save(std::span<std::byte> rows, const BlockMemory& block_memory) override {
    store_.save(rows, block_memory, stream());
  }
  void restore(const SavedRows& saved, std::uint64_t draws) override {
    store_.restore(saved, draws, stream());
  }

 private:
  void* stream() const { return device_.current_stream(); }

  TorchDevice& device_;
  DeviceStore store_;
};

}  // namespace

void RowStorage::append_columns(LaneRange /*lanes*/, std::uint64_t /*steps*/,
                                const MixedSource& /*source*/) {
  throw std::logic_error("these rows are on the host");
}

std::unique_ptr<Store> RowStorage::copy_to_host() {
  settle();
  const std::vector<SavedLane> saved = lanes().save();
  std::uint64_t count = 0;
  for (const SavedLane& lane : saved) count += lane.pushed - lane.first;
  std::vector<std::byte> rows(count * layout().pitch());
  std::vector<std::byte> blocks;
  save(rows, [&](std::size_t nbytes) {
    blocks.resize(nbytes);
    return blocks.data();
  });
  const ControlBlock& control = lanes().control();
  auto copy = std::make_unique<Store>(layout(), control.lane_capacity, lanes().num_lanes(), 0);
  copy->restore({.lanes = saved, .rows = rows, .blocks = blocks});
  return copy;
}

std::unique_ptr<RowStorage> make_row_storage(RowLayout layout, std::uint64_t lane_capacity,
                                             std::uint32_t num_lanes, std::uint64_t seed,
                                             StoragePlace place, TorchDevice* device) {
  if (place == StoragePlace::kHost || device == nullptr) {
    return std::make_unique<HostRows>(std::move(layout), lane_capacity, num_lanes, seed);
  }
  const RowsPlace rows = place == StoragePlace::kPinned ? RowsPlace::kPinned : RowsPlace::kDevice;
  return std::make_unique<DeviceRows>(std::move(layout), lane_capacity, num_lanes, seed, rows,
                                      *device);
}

}  // namespace velora
