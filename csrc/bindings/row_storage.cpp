#include "bindings/row_storage.h"

#include <utility>
#include <vector>

#include "bindings/cuda_library.h"
#include "bindings/tensor_view.h"
#include "core/device_store.h"
#include "core/draw.h"
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
  const Lanes& lanes() const override { return store_.lanes(); }
  RowsView view() const override { return store_.view(); }
  std::size_t nbytes() const override { return store_.nbytes(); }

  void append(std::uint32_t lane, const RowReader& reader, std::size_t first,
              std::size_t last) override {
    for (std::size_t i = first; i < last; ++i) {
      reader.write(i, store_.next_row(lane));
      store_.commit(lane);
    }
  }
  void skip(std::uint32_t lane, std::uint64_t count) override { store_.skip(lane, count); }
  void clear() override { store_.clear(); }

  void sample(std::uint32_t lane, std::size_t count, const BatchTarget& target) override {
    const RowsView view = store_.view();
    draw_.resize(count);
    ids_.resize(count);
    draw_distinct(store_.lanes().next_draw(), view.size(lane), draw_, draw_scratch_);
    const std::uint64_t oldest = view.begin(lane);
    for (std::size_t i = 0; i < count; ++i) ids_[i] = {lane, oldest + draw_[i]};
    gather(view, ids_, target);
  }
  void take(RowId first, std::size_t count, const BatchTarget& target) override {
    ids_.resize(count);
    for (std::size_t i = 0; i < count; ++i) ids_[i] = {first.lane, first.serial + i};
    gather(store_.view(), ids_, target);
  }
  void copy_rows(std::uint32_t lane, std::span<std::byte> rows) override {
    store_.copy_rows(lane, rows);
  }
  void restore(std::uint32_t lane, std::uint64_t pushed, std::span<const std::byte> rows) override {
    store_.restore(lane, pushed, rows);
  }

 private:
  Store store_;
  std::vector<std::uint64_t> draw_;
  std::vector<RowId> ids_;
  DrawScratch draw_scratch_;
};

/// Everything goes to torch's current stream.
class CudaRows final : public RowStorage {
 public:
  CudaRows(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
           std::uint64_t seed, int device)
      : device_(device),
        store_(std::move(layout), lane_capacity, num_lanes, seed, cuda_runtime(device)) {}

  const RowLayout& layout() const override { return store_.layout(); }
  Lanes& lanes() override { return store_.lanes(); }
  const Lanes& lanes() const override { return store_.lanes(); }
  RowsView view() const override { return store_.view(); }
  std::size_t nbytes() const override { return store_.nbytes(); }

  void append(std::uint32_t lane, const RowReader& reader, std::size_t first,
              std::size_t last) override {
    void* stream = current_stream(device_);
    for (std::size_t i = first; i < last; ++i) {
      reader.write(i, store_.next_row(stream));
      store_.commit(lane);
    }
  }
  void skip(std::uint32_t lane, std::uint64_t count) override { store_.skip(lane, count); }
  void clear() override { store_.clear(); }

  void sample(std::uint32_t lane, std::size_t count, const BatchTarget& target) override {
    store_.sample(lane, count, target, current_stream(device_));
  }
  void take(RowId first, std::size_t count, const BatchTarget& target) override {
    store_.take(first, count, target, current_stream(device_));
  }
  void copy_rows(std::uint32_t lane, std::span<std::byte> rows) override {
    store_.copy_rows(lane, rows, current_stream(device_));
  }
  void restore(std::uint32_t lane, std::uint64_t pushed, std::span<const std::byte> rows) override {
    store_.restore(lane, pushed, rows, current_stream(device_));
  }

 private:
  int device_;
  DeviceStore store_;
};

}  // namespace

std::unique_ptr<RowStorage> make_row_storage(RowLayout layout, std::uint64_t lane_capacity,
                                             std::uint32_t num_lanes, std::uint64_t seed,
                                             std::optional<int> device) {
  if (device) {
    return std::make_unique<CudaRows>(std::move(layout), lane_capacity, num_lanes, seed, *device);
  }
  return std::make_unique<HostRows>(std::move(layout), lane_capacity, num_lanes, seed);
}

}  // namespace velora
