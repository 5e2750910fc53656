#include "core/device_staging.h"

#include <algorithm>
#include <cstring>

namespace velora {
namespace {

std::size_t piece_bytes(std::size_t nbytes) {
  return (nbytes + WritePiece::kMost - 1) / WritePiece::kMost * sizeof(WritePiece);
}

/// Of what goes over by way of the buffer.
std::size_t copied_bytes(std::size_t nbytes) {
  return DeviceWriteBuffer::align(nbytes) + piece_bytes(nbytes);
}

std::size_t row_bytes(const RowLayout& layout) {
  return layout.pitch() + piece_bytes(layout.pitch());
}

/// A handful of pieces make up the head.
std::size_t head_bytes(std::uint32_t num_lanes) {
  return copied_bytes(DeviceHead::nbytes(num_lanes)) + 4 * copied_bytes(1);
}

}  // namespace

DeviceStaging::DeviceStaging(const RowLayout& layout, const Lanes& lanes, DeviceWriteBuffer& buffer,
                             std::byte* rows, DeviceHead head)
    : layout_(layout),
      lanes_(lanes),
      buffer_(buffer),
      device_rows_(rows),
      head_(head),
      num_levels_(view().sizes.num_levels),
      bytes_per_row_(row_bytes(layout)),
      all_lanes_bytes_(head_bytes(lanes.num_lanes())),
      newest_(lanes.num_lanes()) {}

std::size_t DeviceStaging::least_half(const RowLayout& layout, std::uint32_t num_lanes) {
  // One row, one flag and everything else, and as much again for alignment.
  return DeviceWriteBuffer::align(2 * (row_bytes(layout) + copied_bytes(1)) +
                                  head_bytes(num_lanes) + sizeof(WritePiece));
}

std::size_t DeviceStaging::lane_bytes() const {
  if (all_changed_) return all_lanes_bytes_;
  const std::size_t of_one =
      copied_bytes(sizeof(LaneState)) + num_levels_ * copied_bytes(sizeof(std::uint64_t));
  return std::min(all_lanes_bytes_, (touched_.size() + 1) * of_one + copied_bytes(1));
}

std::size_t DeviceStaging::tail_bytes() const {
  return rows_.size() * (bytes_per_row_ - layout_.pitch()) + (ended_.size() + 1) * copied_bytes(1) +
         lane_bytes();
}

void DeviceStaging::touch(std::uint32_t lane) {
  if (newest_[lane] != 0) return;
  newest_[lane] = UINT32_MAX;
  touched_.push_back(lane);
}

void DeviceStaging::add(RowId id, const std::byte* row) {
  touch(id.lane);
  rows_.push_back({.id = id, .memory = row});
  newest_[id.lane] = static_cast<std::uint32_t>(rows_.size());
}

void DeviceStaging::set_flags(RowId newest, std::uint8_t flags) {
  touch(newest.lane);
  const std::uint32_t number = newest_[newest.lane];
  if (number != UINT32_MAX) {
    const_cast<std::byte*>(rows_[number - 1].memory)[layout_.flags_offset()] = std::byte{flags};
  } else {
    ended_.push_back({.row = newest, .flags = flags});
  }
}

void DeviceStaging::add_piece(std::byte* to, const std::byte* from, std::size_t nbytes) {
  for (std::size_t done = 0; done < nbytes; done += WritePiece::kMost) {
    const std::size_t part = std::min<std::size_t>(WritePiece::kMost, nbytes - done);
    pieces_.push_back({.to = to + done, .from = from + done, .nbytes = part});
  }
}

void DeviceStaging::copy_lanes(const void* from, std::size_t nbytes) {
  std::byte* memory = buffer_.take(nbytes);
  std::memcpy(memory, from, nbytes);
  const auto* host = reinterpret_cast<const std::byte*>(&lanes_.control());
  add_piece(head_.data() + (static_cast<const std::byte*>(from) - host), memory, nbytes);
}

void DeviceStaging::list_rows() {
  const RowsView view = this->view();
  for (const Row& row : rows_) {
    // Rows that newer ones pushed out, or that were cleared, stay behind: their place is another's.
    if (row.id.serial < view.present(row.id.lane)) continue;
    add_piece(device_rows_ + view.place(row.id) * layout_.pitch(), row.memory, layout_.pitch());
  }
  for (const Flags& ended : ended_) {
    if (ended.row.serial < view.present(ended.row.lane)) continue;
    std::byte* flags = buffer_.take(1);
    *flags = std::byte{ended.flags};
    add_piece(device_rows_ + view.place(ended.row) * layout_.pitch() + layout_.flags_offset(),
              flags, 1);
  }
}

void DeviceStaging::list_lanes() {
  const std::uint32_t num_lanes = lanes_.num_lanes();
  if (all_changed_) {
    copy_lanes(&lanes_.control(), Lanes::nbytes(num_lanes));
    const std::size_t rest = DeviceHead::nbytes(num_lanes) - Lanes::nbytes(num_lanes);
    std::byte* zeros = buffer_.take(rest);
    std::memset(zeros, 0, rest);
    return add_piece(head_.data() + Lanes::nbytes(num_lanes), zeros, rest);
  }
  copy_lanes(&lanes_.control().largest, sizeof(std::uint64_t));
  if (lane_bytes() == all_lanes_bytes_) {
    return copy_lanes(lanes_.states(), Lanes::states_bytes(num_lanes));
  }
  for (const std::uint32_t lane : touched_) copy_lanes(lanes_.states() + lane, sizeof(LaneState));
  list_tree();
}

/// The sizes of the touched lanes and all sums over them, each once.
void DeviceStaging::list_tree() {
  std::sort(touched_.begin(), touched_.end());
  const CountTree sizes = view().sizes;
  std::uint64_t children = 1;
  for (std::uint32_t level = 0; level < sizes.num_levels; ++level) {
    std::uint64_t last = UINT64_MAX;
    for (const std::uint32_t lane : touched_) {
      const std::uint64_t node = lane / children;
      if (node != last) copy_lanes(sizes.levels[level] + node, sizeof(std::uint64_t));
      last = node;
    }
    children *= CountTree::kFanOut;
  }
}

WriteParams DeviceStaging::pieces() {
  pieces_.clear();
  list_rows();
  list_lanes();
  const std::size_t nbytes = pieces_.size() * sizeof(WritePiece);
  std::byte* list = buffer_.take(nbytes);
  std::memcpy(list, pieces_.data(), nbytes);
  return {.pieces = reinterpret_cast<const WritePiece*>(list), .count = pieces_.size()};
}

void DeviceStaging::clear() {
  for (const std::uint32_t lane : touched_) newest_[lane] = 0;
  touched_.clear();
  rows_.clear();
  ended_.clear();
  all_changed_ = false;
}

}  // namespace velora
