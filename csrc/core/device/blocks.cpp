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
      rules_(layout, extent.num_lanes * extent.lane_slots()),
      leaves_(observation_leaves(layout)),
      links_offset_(layout.links_offset()),
      block_bytes_(layout.block_bytes()),
      frame_stack_(layout.frame_stack()),
      chunk_log2_(chunk_log2_of(block_bytes_)),
      most_chunks_(
          chunks_of(std::min<std::uint64_t>(rules_.most_blocks(), Links::kNone), chunk_log2_)),
      table_(allocator, most_chunks_ * sizeof(std::byte*), kPurpose),
      links_(extent.num_lanes * extent.lane_slots(), Links{Links::kNone, Links::kNone}),
      last_(Memory::anonymous(std::size_t{2} * extent.num_lanes * block_bytes_, kPurpose)) {}

CompactView DeviceBlocks::view_of(std::byte* const* chunks) const {
  return {.links_offset = links_offset_,
          .block_bytes = block_bytes_,
          .chunks = chunks,
          .chunk_log2 = chunk_log2_,
          .frame_stack = frame_stack_};
}

CompactView DeviceBlocks::view() const {
  return view_of(reinterpret_cast<std::byte* const*>(table_.data()));
}

std::size_t DeviceBlocks::nbytes() const {
  return chunks_.size() * (block_bytes_ << chunk_log2_) + most_chunks_ * sizeof(std::byte*);
}

void DeviceBlocks::reserve(std::size_t rows) {
  const std::uint64_t used = used_ - free_.size();
  reserve_blocks(used + rules_.most_added(rows, used));
}

/// So that there can be so many in all, which are no more than rules_.most_blocks().
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
      chunk_memory_.emplace_back(allocator_, block_bytes_ << chunk_log2_, kPurpose);
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

/// Is the last next state the new row's state?
bool DeviceBlocks::is_state(std::uint32_t lane, const RowSource& source, std::size_t i) const {
  return std::all_of(leaves_.begin(), leaves_.end(), [&](const ObservationLeaf& leaf) {
    const std::byte* state = source.fields[leaf.state] + i * leaf.nbytes;
    return std::memcmp(last_next(lane) + leaf.block_offset, state, leaf.nbytes) == 0;
  });
}

/// Are the older frames of the new row's state the newer ones of the last?
bool DeviceBlocks::goes_on(std::uint32_t lane, const RowSource& source, std::size_t i) const {
  return std::all_of(leaves_.begin(), leaves_.end(), [&](const ObservationLeaf& leaf) {
    const std::byte* state = source.fields[leaf.state] + i * leaf.nbytes;
    const std::byte* newer = last_state(lane) + leaf.block_offset + leaf.frame_bytes;
    return leaf.frames == 1 || std::memcmp(newer, state, leaf.nbytes - leaf.frame_bytes) == 0;
  });
}

void DeviceBlocks::write(const Lanes& lanes, const RowsView& view, std::uint32_t lane,
                         std::byte* row, const RowSource& source, std::size_t i,
                         DeviceStaging& staging) {
  const LaneState& state = view.lanes[lane];
  const std::uint64_t present = state.pushed - state.cleared;
  const std::uint64_t place = lanes.next_place(lane);
  if (present >= view.lane_slots) {
    release(links_[place].next);
    release(links_[place].head);
  }
  Links own = {.next = Links::kNone, .head = Links::kNone};
  bool follows = false;
  if (present > 0 && view.lane_slots > 1) {  // with one place this row overwrites the one before
    const RowId previous = {lane, state.pushed - 1};
    follows = frame_stack_ == 1 || goes_on(lane, source, i);
    if (is_state(lane, source, i)) {
      Links& theirs = links_[view.place(previous)];
      own.next = theirs.next;  // for this row's next state
      theirs.next = Links::kNone;
      staging.set(previous, links_offset_, &theirs, sizeof(theirs));
    }
  }
  if (frame_stack_ > 1 && !follows) own.head = acquire();
  if (own.next == Links::kNone) own.next = acquire();
  links_[place] = own;
  std::memcpy(row + links_offset_, &own, sizeof(own));
  std::byte* next = staging.block(at(own.next), own.next, block_bytes_);
  std::byte* head =
      own.head == Links::kNone ? nullptr : staging.block(at(own.head), own.head, block_bytes_);
  for (const ObservationLeaf& leaf : leaves_) {
    const std::byte* observation = source.fields[leaf.state] + i * leaf.nbytes;
    const std::byte* next_observation = source.fields[leaf.next] + i * leaf.nbytes;
    const std::size_t older = leaf.nbytes - leaf.frame_bytes;
    std::memcpy(row + leaf.row_offset, observation + older, leaf.frame_bytes);
    if (head != nullptr) std::memcpy(head + leaf.block_offset, observation, older);
    std::memcpy(next + leaf.block_offset, next_observation, leaf.nbytes);
    std::memcpy(last_state(lane) + leaf.block_offset, observation, leaf.nbytes);
    std::memcpy(last_next(lane) + leaf.block_offset, next_observation, leaf.nbytes);
  }
}

void DeviceBlocks::clear() {
  free_.clear();
  used_ = 0;
}

std::vector<const std::byte*> DeviceBlocks::renumber(std::span<std::byte> rows,
                                                     std::size_t pitch) const {
  std::vector<std::uint32_t> numbers;
  for (std::size_t row = 0; row < rows.size(); row += pitch) {
    rules_.renumber(rows.data() + row, numbers);
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

void DeviceBlocks::restore_links(std::uint64_t place, const std::byte* row) {
  std::memcpy(&links_[place], row + links_offset_, sizeof(Links));
}

void DeviceBlocks::restore_lane(std::uint32_t lane, std::span<const std::byte> rows,
                                std::size_t pitch, std::span<const std::byte> blocks) {
  const std::uint64_t count = rows.size() / pitch;
  if (count == 0) return;
  const LaneState state = {.pushed = count, .cleared = 0, .turn = 0, .episode = 0};
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
  for (const ObservationLeaf& leaf : leaves_) {
    const bool is_stack = leaf.frames > 1;
    for (std::uint32_t f = 0; f < leaf.frames; ++f) {
      const std::uint32_t frame = is_stack ? f : frame_stack_ - 1;
      const std::uint64_t pitch_of = is_stack ? leaf.frame_bytes : 0;
      const auto copy = [&](std::byte* to, FramePlace place) {
        std::memcpy(to + leaf.block_offset + f * leaf.frame_bytes,
                    place.of(leaf.row_offset, leaf.block_offset, pitch_of), leaf.frame_bytes);
      };
      copy(last_state(lane), compact.frame_of(view, newest, frame));
      copy(last_next(lane), compact.next_frame_of(view, newest, frame));
    }
  }
}

}  // namespace velora
