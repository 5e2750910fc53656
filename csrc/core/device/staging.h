#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/device/head.h"
#include "core/device/write_buffer.h"
#include "core/kernels/write.h"
#include "core/rows/lane_sizes.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/rows_view.h"

namespace velora {

/// Changes to lanes that the host has not sent to the device yet: rows that lie in the write
/// buffer, rows that ended their episode after they were sent, and lanes that changed.
///
/// Not synchronised.
class DeviceStaging {
 public:
  static constexpr std::size_t kMostChange = 8;

  /// `rows` is where rows go on the device. All of these outlive this.
  DeviceStaging(const RowLayout& layout, const Lanes& lanes, LaneSizes& sizes,
                DeviceWriteBuffer& buffer, std::byte* rows, DeviceHead head);

  /// The least that half a write buffer must hold.
  static std::size_t least_half(const RowLayout& layout, std::uint32_t num_lanes);

  bool empty() const { return touched_.empty() && others_.empty() && !all_changed_; }
  /// Whether there is room for that many more rows, or changes of one lane, and for all that
  /// pieces() puts down.
  bool has_room(std::size_t count = 1) const;
  /// Memory for the next row. Precondition: has_room().
  std::byte* next_row() { return buffer_.take(layout_.pitch()); }
  /// The row in memory that next_row() gave, which its lane has now.
  void add(RowId id, const std::byte* row);
  /// The lane's state has changed. Precondition, here and below: has_room().
  void touch(std::uint32_t lane);
  /// Of its lane's newest row, `nbytes` at an offset have changed: at most kMostChange.
  void set(RowId newest, std::size_t offset, const void* bytes, std::size_t nbytes);
  /// Memory for the block of that number, which has its address on the device: the same until
  /// clear(), as each address is written once.
  std::byte* block(std::byte* address, std::uint32_t number, std::size_t nbytes);
  /// Anything else that goes to the device, with the next row.
  void write(std::byte* to, const void* bytes, std::size_t nbytes);
  /// All lanes have changed, and the draws, too.
  void change_all() { all_changed_ = true; }

  /// Puts the rest down and lists all pieces.
  WriteParams pieces();
  /// They were sent: nothing waits any more.
  void clear();

 private:
  struct Row {
    RowId id;
    const std::byte* memory;
  };
  struct Change {
    RowId row;
    std::size_t offset;
    std::size_t nbytes;
    std::byte bytes[kMostChange];
  };

  RowsView view() const { return lanes_.view(device_rows_, layout_, sizes_); }
  std::size_t tail_bytes(std::size_t more) const;
  std::size_t lane_bytes(std::size_t more) const;
  void add_piece(std::byte* to, const std::byte* from, std::size_t nbytes);
  /// Bytes of the host's, by way of the buffer.
  void copy(void* to, const void* from, std::size_t nbytes);
  void list_rows(const RowsView& view);
  void list_lanes(const RowsView& view);
  void list_tree(const CountTree& sizes);

  const RowLayout& layout_;
  const Lanes& lanes_;
  LaneSizes& sizes_;
  DeviceWriteBuffer& buffer_;
  std::byte* device_rows_;
  DeviceHead head_;
  std::uint32_t num_levels_;     // of the tree of sizes
  std::size_t bytes_per_row_;    // in the buffer, with its pieces
  std::size_t all_lanes_bytes_;  // the same for all that the head has
  std::vector<Row> rows_;
  std::vector<Change> changes_;  // of rows that were sent before
  std::vector<WritePiece> others_;
  std::vector<std::uint32_t> block_numbers_;  // of those among them that are blocks
  std::vector<std::byte*> block_memory_;      // number -> memory here, or null
  std::vector<std::uint32_t> touched_;        // lanes, each once
  std::vector<std::uint32_t> newest_;         // lane -> number of its newest row here, from 1 on
  std::vector<WritePiece> pieces_;
  bool all_changed_ = true;
};

}  // namespace velora
