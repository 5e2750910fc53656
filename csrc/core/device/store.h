#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/batch/target.h"
#include "core/device/blocks.h"
#include "core/device/flag_mirror.h"
#include "core/device/head.h"
#include "core/device/order.h"
#include "core/device/runtime.h"
#include "core/device/staging.h"
#include "core/device/write_buffer.h"
#include "core/host/check_saved.h"
#include "core/memory/memory.h"
#include "core/random/distinct_draw.h"
#include "core/rows/lane_sizes.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/samplers/window_index.h"
#include "core/storage.h"

namespace velora {

/// Rows for a device to read, and the launches that draw and gather from them. The device's
/// counterpart of a Store: the same calls give the same rows and the same draws.
///
/// Rows that come from the host wait in pinned memory; one launch sends them and what changed of
/// the lanes, when something reads or the memory is full. Rows that the device has are put in place
/// by a launch right away: only the device knows then where episodes end, and how many draws its
/// graphs have made. settle() asks it.
///
/// Every operation goes to the stream that it names, after all that was queued before on this or
/// another stream. Reads may be captured as part of a graph: each time that it runs, they wait for
/// what was queued until then, and draw anew from what there is. From then on nothing waits in
/// pinned memory. Where there are too few rows then, the batch is padding.
///
/// Compact rows have their blocks on the device; what decides them is compared on the host.
///
/// The host waits for the device in settle(), export_rows(), import_rows() and the destructor, in
/// sample_sequences() where it says so, and before it writes into pinned memory that the device has
/// not read yet, half a write buffer ago. Every other operation is O(rows that the host brings).
/// Not synchronised: callers serialise all calls. All that takes a stream throws DeviceError when
/// the device fails, or when what cannot be captured is.
class DeviceStore final : public Storage {
 public:
  static constexpr std::size_t kHalfBytes = std::size_t{4} << 20;

  /// `half_bytes` is half of the write buffer; it holds at least one row. `device` outlives this,
  /// and its allocator's memory is in the order of `stream`.
  /// Throws ValueError for a capacity or lane count out of range, MemoryError when the rows do not
  /// fit.
  DeviceStore(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
              std::uint64_t seed, const Device& device, StorageKind kind, void* stream,
              std::size_t half_bytes = kHalfBytes);
  ~DeviceStore() override;

  const RowLayout& layout() const override { return layout_; }
  Lanes& lanes() override { return lanes_; }
  RowsView view() override;
  std::uint64_t size() override;
  std::uint64_t fullest() override {
    return std::min(known_view().fullest() + pending_steps_, extent_.lane_capacity);
  }
  std::size_t nbytes() const override;

  /// Of rows at most as many as half the write buffer holds.
  void reserve(std::size_t rows, void* stream) override;
  /// Of more rows than half the write buffer holds, some may be there when this throws. Waits where
  /// append_columns() came before.
  void append(const LaneOrder& order, const RowSource& source, std::size_t count,
              void* stream) override;
  bool takes_columns() const override { return !layout_.compact(); }
  /// Never waits. Precondition: takes_columns(). Of more than half the write buffer holds, some may
  /// be there when this throws.
  void append_columns(LaneRange lanes, std::uint64_t steps, const MixedSource& source,
                      void* stream) override;
  /// Waits where append_columns() came before.
  void end_episode(std::uint32_t lane, void* stream) override;
  /// In launches that are queued before it returns. Throws DeviceError, and then some rows may have
  /// been written.
  void update_fields(std::span<const RowId> rows, const RowSource& source, std::span<bool> updated,
                     void* stream) override;
  void clear(void* stream) override;

  /// Sends what the host appended since the last flush.
  void flush(void* stream);

  /// In one launch, which counts the draw on the device, too. `target` is memory that the device
  /// writes, but its list of columns is the host's.
  void sample(std::uint64_t count, const BatchTarget& target, void* stream,
              const PartRunner* runner = nullptr) override;
  void sample_replaced(std::uint64_t count, const BatchTarget& target, void* stream,
                       const PartRunner* runner = nullptr) override;
  /// Whether rows are alive is the device's to say: of names there nothing comes to the host. A
  /// graph reads them each time that it runs.
  void gather(const RowNames& names, const BatchTarget& target, void* stream,
              const PartRunner* runner = nullptr) override;
  void take(std::uint64_t start, std::uint64_t count, const BatchTarget& target, void* stream,
            const PartRunner* runner = nullptr) override;

  /// For other boundaries than kPad the host has a copy of all flags: the first call waits for
  /// those of all rows, and a call after append_columns() for those of the rows that came so.
  std::uint64_t count_sequences(const SequenceSpec& spec, void* stream) override;
  /// In one launch. Waits as count_sequences() does, and where a graph may have drawn.
  void sample_sequences(const SequenceSpec& spec, std::uint64_t count, const SequenceTarget& target,
                        void* stream, const PartRunner* runner = nullptr) override;

  /// Waits where only the device knows.
  void settle(void* stream) override;
  /// May be called while a graph is captured.
  void set_seed(std::uint64_t seed, void* stream) override;
  void export_rows(std::span<const RowRange> ranges, std::span<std::byte> rows,
                   const BlockMemory& block_memory, void* stream) override;
  void import_rows(const SavedRows& saved, void* stream) override;

 private:
  std::byte* take_staged(std::size_t bytes, void* stream);
  void require_running(const char* what, void* stream);
  /// Makes room for `count` more rows or changes from the host, if half a write buffer holds them.
  void make_room(void* stream, std::size_t count = 1);
  void flush_for_graphs(void* stream) noexcept;
  void commit(std::uint32_t lane, const std::byte* row);
  void write_field(std::byte* to, const std::byte* from, std::size_t nbytes, void* stream);
  void reserve_blocks(std::size_t rows, void* stream);
  void restore_blocks(std::span<const std::byte> blocks, const BoolFields& bools, void* stream);
  void apply_pending();
  void learn_episodes(void* stream);
  void fetch_lanes(void* stream);
  AppendParams append_params(LaneRange lanes, std::uint64_t first_step, std::uint64_t steps,
                             const MixedSource& source, void* stream);

  /// Where a launch that reads is to find its lists: `bytes` for both parts of begin_read().
  std::byte* begin_read(std::size_t bytes, void* stream);
  void end_read(void* stream);
  /// view() without pending steps.
  RowsView known_view() const { return lanes_.view(rows_, layout_, sizes_); }
  /// The device's lane states, for launches.
  RowsView device_view() const;
  LaunchRows launch_rows() const;
  /// Takes columns_bytes(target) of `lists`.
  DeviceBatch device_batch(const BatchTarget& target, std::byte*& lists) const;
  /// Memory of the device for one draw at a time, and for what belongs to it.
  std::byte* draw_space(std::size_t bytes);

  /// The host's copy of the flags as rows, up to date.
  RowsView flags_view(void* stream);
  void fetch_flags(const RowsView& rows, std::span<const RowId> ids, void* stream);
  Windows& windows(const RowsView& flags, const SequenceSpec& spec);

  RowLayout layout_;
  RowExtent extent_;
  Memory lanes_memory_;
  Lanes lanes_;
  mutable LaneSizes sizes_;  // as of the last view
  DeviceRuntime& runtime_;
  DeviceAllocator& allocator_;
  DeviceMemory memory_;       // of the head and, unless they are pinned, the rows
  MemoryClaim pinned_claim_;  // pinned memory is the machine's
  PinnedMemory pinned_rows_;
  std::byte* rows_;
  DeviceHead head_;
  DeviceWriteBuffer buffer_;
  DeviceStaging staging_;
  std::unique_ptr<DeviceBlocks> blocks_;  // of compact rows
  DeviceOrder order_;
  bool capturing_ = false;                    // the read that is being queued
  bool has_lists_ = false;                    // the same
  std::vector<PinnedMemory> captured_lists_;  // which graphs go on reading
  // Captured launches keep what they were given, so what was outgrown stays; sizes double.
  std::vector<DeviceMemory> draw_spaces_;
  std::size_t draw_space_bytes_ = 0;
  std::uint64_t pending_steps_ = 0;  // of all lanes, that lanes_ has not been told of
  bool knows_episodes_ = true;       // that rows belong to, as lanes_ has them
  FlagMirror flags_;                 // which windows_ read
  static constexpr std::uint64_t kMostKept = std::uint64_t{1} << 16;  // elements of a draw
  DrawScratch scratch_;
  WindowIndex windows_{scratch_};
};

}  // namespace velora
