#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/device/runtime.h"
#include "core/device/staging.h"
#include "core/memory/memory.h"
#include "core/rows/compact_rule.h"
#include "core/rows/compact_view.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/rows/rows_view.h"

namespace velora {

/// The observations of a device's compact rows, each stored once: the links and blocks of
/// CompactRule. What decides them is compared on the host, which keeps for that the links of all
/// rows and, of each lane, the last state and next state.
///
/// Blocks lie in chunks of device memory, which come as they are needed and stay. Not synchronised.
class DeviceBlocks {
 public:
  /// Throws MemoryError.
  DeviceBlocks(const RowLayout& layout, const RowExtent& extent, DeviceAllocator& allocator);

  CompactView view() const;
  /// Bytes of device memory.
  std::size_t nbytes() const;

  /// Makes sure that that many rows can be written. Throws MemoryError, and then nothing has
  /// changed.
  void reserve(std::size_t rows);
  /// Tells the device of chunks that it does not know, while there is room; returns whether it
  /// knows all.
  bool announce(DeviceStaging& staging);
  /// Writes the observations of source row `i` to `row`, the lane's next, which is not committed
  /// yet, and what goes with it. Precondition: reserve() was told of it, and there is room.
  void write(const Lanes& lanes, const RowsView& view, std::uint32_t lane, std::byte* row,
             const RowSource& source, std::size_t i, DeviceStaging& staging);
  void clear();

  /// Numbers the blocks of copied rows from 0 on; returns where each lies on the device.
  std::vector<const std::byte*> renumber(std::span<std::byte> rows, std::size_t pitch) const;
  const CompactRule& rule() const { return rule_; }
  /// Makes room for that many checked blocks instead of all, numbered from 0 on. Throws
  /// MemoryError, and then nothing has changed.
  void restart(std::size_t count);
  /// Takes over the links of a row that was restored to row index `row_index`.
  void restore_links(std::uint64_t row_index, const std::byte* row);
  /// The same of what a lane's next row is compared with: `rows` are all of the lane's.
  void restore_lane(std::uint32_t lane, std::span<const std::byte> rows, std::size_t pitch,
                    std::span<const std::byte> blocks);
  std::byte* at(std::uint32_t block) const {
    return const_cast<std::byte*>(view_of(chunks_.data()).block(block));
  }

 private:
  class RowsAround;

  void reserve_blocks(std::uint64_t needed);
  CompactView view_of(std::byte* const* chunks) const;
  std::uint32_t acquire();
  void release(std::uint32_t block) { free_.push_back(block); }
  std::size_t block_bytes() const { return rule_.block_bytes(); }
  std::byte* last_state(std::uint32_t lane) const {
    return last_.data() + std::size_t{2} * lane * block_bytes();
  }
  std::byte* last_next(std::uint32_t lane) const { return last_state(lane) + block_bytes(); }

  DeviceAllocator& allocator_;
  CompactRule rule_;
  std::uint32_t chunk_log2_;
  std::uint64_t most_chunks_;  // that hold rule_.most_blocks(): the room in the table
  DeviceMemory table_;         // of the chunks, on the device
  std::vector<DeviceMemory> chunk_memory_;
  std::vector<std::byte*> chunks_;
  std::size_t announced_ = 0;  // chunks that the device's table has
  std::uint64_t used_ = 0;     // blocks that were ever handed out
  std::vector<std::uint32_t> free_;
  std::vector<Links> links_;  // by row index
  Memory last_;               // of each lane: state and next state, as blocks
};

}  // namespace velora
