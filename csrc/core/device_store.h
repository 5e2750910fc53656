#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/device_runtime.h"
#include "core/device_write_buffer.h"
#include "core/gather.h"
#include "core/lanes.h"
#include "core/memory.h"
#include "core/row_layout.h"
#include "core/row_source.h"

namespace velora {

/// Rows in device memory, and the launches that draw and gather from them. The device's
/// counterpart of a Store: the same calls give the same rows and the same draws.
///
/// The host decides: it has the lanes, and puts new rows down in pinned memory. flush() sends them
/// and a copy of the lane states over; whatever reads flushes first, and so does a full write
/// buffer. Every operation goes to the stream that it names, after all that was queued before on
/// this or another stream. A stream is named until the next operation names another.
///
/// The host waits for the device in save() and the destructor, and before it writes into
/// pinned memory that the device has not read yet, half a write buffer ago. Every operation is
/// O(1) on the host, but O(lanes) for each flush. Not synchronised: callers serialise all calls.
/// All that takes a stream throws DeviceError when the device fails.
class DeviceStore {
 public:
  static constexpr std::size_t kHalfBytes = std::size_t{4} << 20;

  /// `half_bytes` is half of the write buffer; it holds at least one row. `runtime` outlives this.
  /// Throws ValueError for a capacity or lane count out of range, MemoryError when the rows do not
  /// fit onto the device.
  DeviceStore(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
              std::uint64_t seed, DeviceRuntime& runtime, std::size_t half_bytes = kHalfBytes);
  ~DeviceStore();
  DeviceStore(const DeviceStore&) = delete;
  DeviceStore& operator=(const DeviceStore&) = delete;

  const RowLayout& layout() const { return layout_; }
  Lanes& lanes() { return lanes_; }
  const Lanes& lanes() const { return lanes_; }
  /// For the host: which rows are alive and where. The rows themselves are the device's to read.
  RowsView view() const { return lanes_.view(rows(), layout_); }
  /// Bytes of device memory.
  std::size_t nbytes() const {
    const std::size_t rows = extent_.nbytes();
    return rows > SIZE_MAX - rows_offset_ ? SIZE_MAX : rows_offset_ + rows;
  }

  /// As Store::append. Of more rows than half the write buffer holds, some may be there when this
  /// throws.
  void append(const LaneOrder& lanes, const RowSource& source, std::size_t count, void* stream);
  /// As Store::end_episode.
  void end_episode(std::uint32_t lane);
  void clear();

  /// Sends what was appended since the last flush: for each lane that was written without
  /// interruption one copy, two where its ring wraps, and one of the lane states.
  void flush(void* stream);

  /// Writes `count` distinct rows to `target`, in one launch: those of the lanes' next draw, which
  /// the caller counts when it has the batch. `target` is device memory, but its list of columns,
  /// at most one for each field, is the host's.
  /// Throws ValueError when there are fewer rows.
  void sample(std::uint64_t count, const BatchTarget& target, void* stream);
  /// The same with the `count` live rows from position `start` on in time order: in one launch
  /// where all lanes hold as many rows, in one for each row otherwise.
  void take(std::uint64_t start, std::uint64_t count, const BatchTarget& target, void* stream);

  /// As Store::save; waits for the stream.
  void save(std::span<std::byte> rows, void* stream);
  /// As Store::restore.
  void restore(std::span<const SavedLane> lanes, std::span<const std::byte> rows, void* stream);

 private:
  /// Host memory for the next row of any lane.
  std::byte* next_row(void* stream);
  /// Makes the row in next_row(), whose flags are these, the newest of `lane`.
  void commit(std::uint32_t lane, std::uint8_t flags);

  /// Consecutive rows of a lane that lie one after the other in the write buffer.
  struct Run {
    std::uint32_t lane;
    std::uint64_t serial;
    std::uint64_t count;
    const std::byte* rows;
  };

  /// A row that has other flags since it was written.
  struct Ended {
    RowId row;
    std::uint8_t flags;
  };

  std::byte* rows() const { return memory_.data() + rows_offset_; }
  std::size_t states_bytes() const { return Lanes::states_bytes(extent_.num_lanes); }
  std::size_t columns_bytes() const { return layout_.fields().size() * sizeof(DeviceColumn); }

  void join(void* stream);
  void mark(void* event, void* stream);
  void gather_params(const BatchTarget& target, std::uint64_t count, void* stream,
                     GatherParams* out);
  void launch_take(const TakeParams& params, void* stream);
  std::byte* draw_space(std::uint32_t count);

  RowLayout layout_;
  RowExtent extent_;
  Memory head_;
  Lanes lanes_;
  DeviceRuntime* runtime_;
  // On the device: lane states, columns, rows.
  std::size_t columns_offset_;
  std::size_t rows_offset_;
  DeviceMemory memory_;
  DeviceWriteBuffer buffer_;
  std::vector<Run> runs_;
  std::vector<Ended> ended_;
  bool changed_ = true;  // since the last flush
  // Freeing memory makes a device wait, so what was outgrown stays; sizes double.
  std::vector<DeviceMemory> draw_spaces_;
  std::size_t draw_space_bytes_ = 0;
  DeviceEvent read_;
  void* last_event_ = nullptr;  // passed when all operations so far are done
  void* last_stream_ = nullptr;
};

}  // namespace velora
