#include "core/device/blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/values/errors.h"

namespace velora {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
constexpr const char* kPurpose = "observations beside the rows";

std::uint32_t chunk_log2_of(std::size_t block_bytes) {
  const std::size_t blocks = std::max<std::size_t>(1, kChunkBytes / block_bytes);
  return static_cast<std::uint32_t>(std::bit_width(blocks) - 1);
}

std::uint64_t chunks_of(std::uint64_t blocks, std::uint32_t chunk_log2) {
  return (blocks + (std::uint64_t{1} << chunk_log2) - 1) >> chunk_log2;
}

}  // namespace

DeviceBlocks::DeviceBlocks(const RowLayout& layout, const RowExtent& extent,
                           DeviceAllocator& allocator)
    : allocator_(allocator),
      rule_(layout, extent.num_lanes * extent.lane_slots()),
      chunk_log2_(chunk_log2_of(block_bytes())),
      most_chunks_(
          chunks_of(std::min<std::uint64_t>(rule_.most_blocks(), Links::kNone), chunk_log2_)),
      table_(allocator, most_chunks_ * sizeof(std::byte*), kPurpose),
      links_(extent.num_lanes * extent.lane_slots(), Links{Links::kNone, Links::kNone}),
      last_(Memory::anonymous(std::size_t{2} * extent.num_lanes * block_bytes(), kPurpose)) {}

CompactView DeviceBlocks::view_of(std::byte* const* chunks) const {
  return {.links_offset = rule_.links_offset(),
          .block_bytes = block_bytes(),
          .chunks = chunks,
          .chunk_log2 = chunk_log2_,
          .frame_stack = rule_.frame_stack()};
}

CompactView DeviceBlocks::view() const {
  return view_of(reinterpret_cast<std::byte* const*>(table_.data()));
}

std::size_t DeviceBlocks::nbytes() const {
  return chunks_.size() * (block_bytes() << chunk_log2_) + most_chunks_ * sizeof(std::byte*);
}

void DeviceBlocks::reserve(std::size_t rows) {
  const std::uint64_t used = used_ - free_.size();
  reserve_blocks(used + rule_.most_added(rows, used));
}

/// So that there can be so many in all, which are no more than rule_.most_blocks().
void DeviceBlocks::reserve_blocks(std::uint64_t needed) {
  if (needed >= Links::kNone) {
    throw MemoryError(std::string("compact: expected fewer than ") + std::to_string(Links::kNone) +
                      " observations beside the rows, got " + std::to_string(needed));
  }
  if (needed > free_.capacity()) free_.reserve(std::max<std::size_t>(needed, 2 * free_.capacity()));
  const std::size_t before = chunks_.size();
  const std::uint64_t chunks = chunks_of(needed, chunk_log2_);
  if (chunks <= before) return;
  if (chunks > most_chunks_) {
    throw std::logic_error("compact: expected at most " + std::to_string(most_chunks_) +
                           " chunks of observations, got " + std::to_string(chunks));
  }
  chunks_.reserve(chunks);
  chunk_memory_.reserve(chunks);
  try {
    while (chunks_.size() < chunks) {
      chunk_memory_.emplace_back(allocator_, block_bytes() << chunk_log2_, kPurpose);
      chunks_.push_back(chunk_memory_.back().data());
    }
  } catch (...) {
    chunks_.resize(before);
    chunk_memory_.resize(before);
    throw;
  }
}

bool DeviceBlocks::announce(DeviceStaging& staging) {
  for (; announced_ < chunks_.size(); ++announced_) {
    if (!staging.has_room()) return false;
    const void* chunk = static_cast<const void*>(&chunks_[announced_]);
    staging.write(table_.data() + announced_ * sizeof(std::byte*), chunk, sizeof(std::byte*));
  }
  return true;
}

std::uint32_t DeviceBlocks::acquire() {
  if (free_.empty()) return static_cast<std::uint32_t>(used_++);
  const std::uint32_t block = free_.back();
  free_.pop_back();
  return block;
}

/// The rows around a lane's next one, as CompactRule::link() asks for them.
class DeviceBlocks::RowsAround {
 public:
  struct New {
    RowId id;
    std::uint64_t position;  // as Lanes::next_row_index
    const RowSource& source;
    std::size_t i;
  };

  RowsAround(DeviceBlocks& blocks, const RowsView& view, DeviceStaging& staging, const New& added)
      : blocks_(blocks), view_(view), staging_(staging), added_(added) {}

  Links overwritten() const { return blocks_.links_[added_.position]; }
  Links previous() const { return blocks_.links_[view_.row_index(previous_id())]; }
  void set_previous(Links links) const {
    blocks_.links_[view_.row_index(previous_id())] = links;
    staging_.set(previous_id(), blocks_.rule_.links_offset(), &links, sizeof(links));
  }
  bool goes_on() const {
    const std::byte* last = blocks_.last_state(added_.id.lane);
    const auto frame_of = [last](std::uint32_t f) {
      return FrameAddress{.base = last, .frame = static_cast<std::int32_t>(f)};
    };
    return blocks_.rule_.goes_on(frame_of, added_.source, added_.i);
  }
  /// The host does not have the block, but the bytes that are in it.
  bool is_state(std::uint32_t) const {
    return blocks_.rule_.is_state(blocks_.last_next(added_.id.lane), added_.source, added_.i);
  }
  std::uint32_t acquire() const { return blocks_.acquire(); }
  void release(std::uint32_t block) const { blocks_.release(block); }

 private:
  RowId previous_id() const { return {added_.id.lane, added_.id.serial - 1}; }

  DeviceBlocks& blocks_;
  const RowsView& view_;
  DeviceStaging& staging_;
  const New& added_;
};

void DeviceBlocks::write(const Lanes& lanes, const RowsView& view, std::uint32_t lane,
                         std::byte* row, const RowSource& source, std::size_t i,
                         DeviceStaging& staging) {
  const RowsAround::New added = {.id = {lane, view.end(lane)},
                                 .position = lanes.next_row_index(lane),
                                 .source = source,
                                 .i = i};
  RowsAround around(*this, view, staging, added);
  const Links own = rule_.link(view, lane, around);
  links_[added.position] = own;
  rule_.set_links(row, own);
  std::byte* next = staging.block(at(own.next), own.next, block_bytes());
  std::byte* head =
      own.head == Links::kNone ? nullptr : staging.block(at(own.head), own.head, block_bytes());
  rule_.write(row, head, next, source, i);
  rule_.write_state(last_state(lane), source, i);
  rule_.write_next_state(last_next(lane), source, i);
}

void DeviceBlocks::clear() {
  free_.clear();
  used_ = 0;
}

std::vector<const std::byte*> DeviceBlocks::renumber(std::span<std::byte> rows,
                                                     std::size_t pitch) const {
  std::vector<std::uint32_t> numbers;
  for (std::size_t row = 0; row < rows.size(); row += pitch) {
    rule_.renumber(rows.data() + row, numbers);
  }
  std::vector<const std::byte*> blocks;
  blocks.reserve(numbers.size());
  for (const std::uint32_t number : numbers) blocks.push_back(at(number));
  return blocks;
}

void DeviceBlocks::restart(std::size_t count) {
  reserve_blocks(count);
  clear();
  used_ = count;
}

void DeviceBlocks::restore_links(std::uint64_t row_index, const std::byte* row) {
  links_[row_index] = rule_.links(row);
}

void DeviceBlocks::restore_lane(std::uint32_t lane, std::span<const std::byte> rows,
                                std::size_t pitch, std::span<const std::byte> blocks) {
  const std::uint64_t count = rows.size() / pitch;
  if (count == 0) return;
  const LaneState state = {.pushed = count, .cleared = 0, .lap = 0, .episode = 0};
  RowsView view = {};
  view.rows = rows.data();
  view.pitch = pitch;
  view.lane_capacity = view.lane_slots = count;
  view.lanes = &state;
  view.num_lanes = 1;
  auto* first_block = const_cast<std::byte*>(blocks.data());
  CompactView compact = view_of(&first_block);
  compact.chunk_log2 = 31;  // all in one piece
  const RowId newest = {0, count - 1};
  // A row that is there only to be read through has no whole stack, and is never the newest.
  for (const ObservationLeaf& leaf : rule_.leaves()) {
    const bool is_stack = leaf.frames > 1;
    for (std::uint32_t f = 0; f < leaf.frames; ++f) {
      const std::uint32_t frame = is_stack ? f : rule_.frame_stack() - 1;
      const std::uint64_t pitch_of = is_stack ? leaf.frame_bytes : 0;
      const auto copy = [&](std::byte* to, FrameAddress address) {
        std::memcpy(to + leaf.block_offset + f * leaf.frame_bytes,
                    address.of(leaf.row_offset, leaf.block_offset, pitch_of), leaf.frame_bytes);
      };
      copy(last_state(lane), compact.frame_of(view, newest, frame));
      copy(last_next(lane), compact.next_frame_of(view, newest, frame));
    }
  }
}

}  // namespace velora
