#include "core/device/staging.h"

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

/// In the buffer, with all that goes with it.
std::size_t row_bytes(const RowLayout& layout) {
  const std::size_t row = layout.pitch() + piece_bytes(layout.pitch());
  return layout.compact() ? row + 2 * copied_bytes(layout.block_bytes()) : row;
}

/// A handful of pieces make up the head.
std::size_t header_bytes(std::uint32_t num_lanes) {
  return copied_bytes(DeviceHead::nbytes(num_lanes)) + 4 * copied_bytes(DeviceStaging::kMostChange);
}

}  // namespace

DeviceStaging::DeviceStaging(const RowLayout& layout, const Lanes& lanes, LaneSizes& sizes,
                             DeviceWriteBuffer& buffer, std::byte* rows, DeviceHead head)
    : layout_(layout),
      lanes_(lanes),
      sizes_(sizes),
      buffer_(buffer),
      device_rows_(rows),
      head_(head),
      num_levels_(sizes.tree().num_levels),
      bytes_per_row_(row_bytes(layout)),
      all_lanes_bytes_(header_bytes(lanes.num_lanes())),
      newest_(lanes.num_lanes()) {}

std::size_t DeviceStaging::least_half(const RowLayout& layout, std::uint32_t num_lanes) {
  // One row, one flag and everything else, and as much again for alignment.
  return DeviceWriteBuffer::align(
      2 * (row_bytes(layout) + copied_bytes(DeviceStaging::kMostChange)) + header_bytes(num_lanes) +
      sizeof(WritePiece));
}

bool DeviceStaging::has_room(std::size_t count) const {
  if (count > buffer_.half_bytes() / bytes_per_row_) return false;
  return buffer_.has_room(count * bytes_per_row_ + tail_bytes(count));
}

std::size_t DeviceStaging::lane_bytes(std::size_t more) const {
  if (all_changed_) return all_lanes_bytes_;
  const std::size_t of_one =
      copied_bytes(sizeof(LaneState)) + num_levels_ * copied_bytes(sizeof(std::uint64_t));
  return std::min(all_lanes_bytes_, (touched_.size() + more) * of_one + copied_bytes(kMostChange));
}

/// Bytes of the buffer for all that waits, when `more` rows or changes have come.
std::size_t DeviceStaging::tail_bytes(std::size_t more) const {
  const std::size_t pieces = rows_.size() * piece_bytes(layout_.pitch()) +
                             block_numbers_.size() * piece_bytes(layout_.block_bytes()) +
                             others_.size() * sizeof(WritePiece);
  return pieces + (changes_.size() + more + 1) * copied_bytes(kMostChange) + lane_bytes(more);
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

void DeviceStaging::set(RowId newest, std::size_t offset, const void* bytes, std::size_t nbytes) {
  touch(newest.lane);
  const std::uint32_t number = newest_[newest.lane];
  if (number != UINT32_MAX) {
    std::memcpy(const_cast<std::byte*>(rows_[number - 1].memory) + offset, bytes, nbytes);
    return;
  }
  changes_.push_back({.row = newest, .offset = offset, .nbytes = nbytes, .bytes = {}});
  std::memcpy(changes_.back().bytes, bytes, nbytes);
}

std::byte* DeviceStaging::block(std::byte* address, std::uint32_t number, std::size_t nbytes) {
  if (number >= block_memory_.size()) block_memory_.resize(std::size_t{number} + 1);
  if (block_memory_[number] != nullptr) return block_memory_[number];
  std::byte* memory = buffer_.take(nbytes);
  block_memory_[number] = memory;
  block_numbers_.push_back(number);
  others_.push_back({.to = address, .from = memory, .nbytes = nbytes});
  return memory;
}

void DeviceStaging::write(std::byte* to, const void* bytes, std::size_t nbytes) {
  std::byte* memory = buffer_.take(nbytes);
  std::memcpy(memory, bytes, nbytes);
  others_.push_back({.to = to, .from = memory, .nbytes = nbytes});
}

void DeviceStaging::add_piece(std::byte* to, const std::byte* from, std::size_t nbytes) {
  for (std::size_t done = 0; done < nbytes; done += WritePiece::kMost) {
    const std::size_t part = std::min<std::size_t>(WritePiece::kMost, nbytes - done);
    pieces_.push_back({.to = to + done, .from = from + done, .nbytes = part});
  }
}

void DeviceStaging::copy(void* to, const void* from, std::size_t nbytes) {
  std::byte* memory = buffer_.take(nbytes);
  std::memcpy(memory, from, nbytes);
  add_piece(static_cast<std::byte*>(to), memory, nbytes);
}

void DeviceStaging::list_rows(const RowsView& view) {
  for (const Row& row : rows_) {
    // Rows that newer ones pushed out, or that were cleared, stay behind: their slot is another's.
    if (row.id.serial < view.present(row.id.lane)) continue;
    add_piece(device_rows_ + view.row_index(row.id) * layout_.pitch(), row.memory, layout_.pitch());
  }
  for (const Change& change : changes_) {
    if (change.row.serial < view.present(change.row.lane)) continue;
    copy(device_rows_ + view.row_index(change.row) * layout_.pitch() + change.offset, change.bytes,
         change.nbytes);
  }
  for (const WritePiece& other : others_) add_piece(other.to, other.from, other.nbytes);
}

void DeviceStaging::list_lanes(const RowsView& view) {
  const std::uint32_t num_lanes = lanes_.num_lanes();
  const std::size_t sizes_bytes = LaneSizes::num_words(num_lanes) * sizeof(std::uint64_t);
  if (all_changed_) {
    copy(head_.control(), &lanes_.control(), Lanes::states_bytes(num_lanes));
    copy(head_.sizes_words(), view.sizes.levels[0], sizes_bytes);
    const std::size_t copied = DeviceHead::copied_bytes(num_lanes);
    const std::size_t rest = DeviceHead::nbytes(num_lanes) - copied;
    std::byte* zeros = buffer_.take(rest);
    std::memset(zeros, 0, rest);
    return add_piece(head_.data() + copied, zeros, rest);
  }
  if (touched_.empty()) return;  // the device may know more of its lanes than is known here
  if (lane_bytes(0) == all_lanes_bytes_) {
    copy(head_.states(), lanes_.states(), num_lanes * sizeof(LaneState));
    return copy(head_.sizes_words(), view.sizes.levels[0], sizes_bytes);
  }
  copy(head_.largest(), view.largest, sizeof(std::uint64_t));
  for (const std::uint32_t lane : touched_) {
    copy(head_.states() + lane, lanes_.states() + lane, sizeof(LaneState));
  }
  list_tree(view.sizes);
}

/// The sizes of the touched lanes and all sums over them, each once.
void DeviceStaging::list_tree(const CountTree& sizes) {
  std::sort(touched_.begin(), touched_.end());
  const CountTree on_device = head_.sizes();
  std::uint64_t children = 1;
  for (std::uint32_t level = 0; level < sizes.num_levels; ++level) {
    std::uint64_t last = UINT64_MAX;
    for (const std::uint32_t lane : touched_) {
      const std::uint64_t node = lane / children;
      const std::uint64_t* size = sizes.levels[level] + node;
      if (node != last) copy(on_device.levels[level] + node, size, sizeof(*size));
      last = node;
    }
    children *= CountTree::kFanOut;
  }
}

WriteParams DeviceStaging::pieces() {
  pieces_.clear();
  const RowsView view = this->view();
  list_rows(view);
  list_lanes(view);
  const std::size_t nbytes = pieces_.size() * sizeof(WritePiece);
  std::byte* list = buffer_.take(nbytes);
  std::memcpy(list, pieces_.data(), nbytes);
  return {.pieces = reinterpret_cast<const WritePiece*>(list), .count = pieces_.size()};
}

void DeviceStaging::clear() {
  for (const std::uint32_t lane : touched_) newest_[lane] = 0;
  touched_.clear();
  rows_.clear();
  changes_.clear();
  others_.clear();
  for (const std::uint32_t number : block_numbers_) block_memory_[number] = nullptr;
  block_numbers_.clear();
  all_changed_ = false;
}

}  // namespace velora
