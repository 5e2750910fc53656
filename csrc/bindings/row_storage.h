#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "bindings/torch_device.h"
#include "core/device/store.h"
#include "core/host/batch_reader.h"
#include "core/host/gather.h"
#include "core/host/saved_rows.h"
#include "core/host/store.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/threads/parts.h"

namespace velora {

/// Where a buffer's rows are.
enum class StoragePlace : std::uint8_t { kHost, kDevice, kPinned };

/// A buffer's rows with what is done to them where they are: one call for each push or sample.
/// Needs the GIL.
class RowStorage {
 public:
  RowStorage() = default;
  virtual ~RowStorage() = default;
  RowStorage(const RowStorage&) = delete;
  RowStorage& operator=(const RowStorage&) = delete;

  virtual const RowLayout& layout() const = 0;
  virtual Lanes& lanes() = 0;
  /// What the lanes hold; the rows themselves may be a device's to read.
  virtual RowsView view() = 0;
  /// Live rows of all lanes, and at most of one.
  virtual std::uint64_t size() { return view().size(); }
  virtual std::uint64_t fullest() { return view().fullest(); }
  virtual std::size_t nbytes() const = 0;

  /// As Store::reserve.
  virtual void reserve(std::size_t rows) = 0;
  /// As Store::append.
  virtual void append(const LaneOrder& lanes, const RowSource& source, std::size_t count) = 0;
  /// Whether append_columns() is there.
  virtual bool takes_columns() const { return false; }
  /// As DeviceStore::append_columns.
  virtual void append_columns(LaneRange lanes, std::uint64_t steps, const MixedSource& source);
  /// As Store::end_episode.
  virtual void end_episode(std::uint32_t lane) = 0;
  virtual void clear() = 0;
  /// Writes `count` distinct rows, which there are, to `target`: those of the lanes' next draw,
  /// which it counts. A runner, here and below, copies rows on the host.
  virtual void sample(std::size_t count, const BatchTarget& target, const PartRunner* runner) = 0;
  /// Writes the `count` live rows from position `start` on in time order.
  virtual void take(std::uint64_t start, std::size_t count, const BatchTarget& target,
                    const PartRunner* runner) = 0;
  virtual std::uint64_t count_sequences(const SequenceSpec& spec) = 0;
  virtual void sample_sequences(const SequenceSpec& spec, std::size_t count,
                                const SequenceTarget& target, const PartRunner* runner) = 0;
  /// Brings lanes() up to date before they are saved.
  virtual void settle() {}
  /// The Store that has the rows; null where they are a device's.
  virtual const Store* host_store() const { return nullptr; }
  /// A Store of its own with the same rows. Throws MemoryError.
  std::unique_ptr<Store> copy_to_host();
  /// As Store::set_seed.
  virtual void set_seed(std::uint64_t seed) = 0;
  /// As Store::save and Store::restore, with the number of draws.
  virtual void save(std::span<std::byte> rows, const BlockMemory& block_memory) = 0;
  virtual void restore(const SavedRows& saved, std::uint64_t draws) = 0;
};

/// `device` is null for kHost. Throws ValueError, MemoryError and DeviceError.
std::unique_ptr<RowStorage> make_row_storage(RowLayout layout, std::uint64_t lane_capacity,
                                             std::uint32_t num_lanes, std::uint64_t seed,
                                             StoragePlace place, TorchDevice* device);

}  // namespace velora
