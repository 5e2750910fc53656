#include "bindings/row_storage.h"

#include <stdexcept>
#include <utility>

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
  RowsView view() override { return store_.view(); }
  std::size_t nbytes() const override { return store_.nbytes(); }

  void reserve(std::size_t rows) override { store_.reserve(rows); }
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
  void restore(std::span<const SavedLane> lanes, std::uint64_t draws,
               std::span<const std::byte> rows, std::span<const std::byte> blocks) override {
    store_.restore(lanes, rows, blocks);
    store_.lanes().set_draws(draws);
  }

 private:
  Store store_;
  Sampler sampler_;
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
  std::vector<std::byte> save(std::span<std::byte> rows) override {
    return store_.save(rows, stream());
  }
  void restore(std::span<const SavedLane> lanes, std::uint64_t draws,
               std::span<const std::byte> rows, std::span<const std::byte> blocks) override {
    store_.restore(lanes, draws, rows, blocks, stream());
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
