#include "core/host/compact_rows.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/values/errors.h"

namespace velora {

std::vector<ObservationLeaf> observation_leaves(const RowLayout& layout) {
  const std::vector<Field>& fields = layout.fields();
  std::vector<std::size_t> next_states;
  for (std::size_t f = 0; f < fields.size(); ++f) {
    if (fields[f].role == Role::kNextState) next_states.push_back(f);
  }
  std::vector<ObservationLeaf> leaves;
  for (std::size_t f = 0; f < fields.size(); ++f) {
    const Field& field = fields[f];
    if (field.role != Role::kState) continue;
    leaves.push_back({.state = f,
                      .next = next_states[leaves.size()],
                      .nbytes = field.nbytes,
                      .frame_bytes = field.nbytes / field.frames,
                      .row_offset = field.offset,
                      .block_offset = field.block_offset,
                      .frames = field.frames});
  }
  return leaves;
}

CompactRows::CompactRows(const RowLayout& layout, std::uint64_t num_slots)
    : links_offset_(layout.links_offset()),
      frame_stack_(layout.frame_stack()),
      num_slots_(num_slots),
      leaves_(observation_leaves(layout)),
      blocks_(layout.block_bytes()) {}

std::uint64_t CompactRows::most_added(std::uint64_t rows, std::uint64_t used) const {
  return std::min(blocks_per_row() * rows, most_blocks() - used);
}

Links CompactRows::links(const std::byte* row) const {
  Links links;
  std::memcpy(&links, row + links_offset_, sizeof(links));
  return links;
}

void CompactRows::set_links(std::byte* row, Links links) const {
  std::memcpy(row + links_offset_, &links, sizeof(links));
}

/// Has the block the very bytes of the new row's state?
bool CompactRows::is_state(std::uint32_t block, const RowSource& source, std::size_t i) const {
  const std::byte* bytes = blocks_.at(block);
  for (const ObservationLeaf& leaf : leaves_) {
    const std::byte* state = source.fields[leaf.state] + i * leaf.nbytes;
    if (std::memcmp(bytes + leaf.block_offset, state, leaf.nbytes) != 0) return false;
  }
  return true;
}

/// Are the older frames of the new row's state the newer ones of the previous row's?
bool CompactRows::goes_on(const RowsView& view, RowId previous, const RowSource& source,
                          std::size_t i) const {
  FramePlace frames[ObservationStorage::kMaxFrameStack];
  find_state(view, previous, frames);
  for (const ObservationLeaf& leaf : leaves_) {
    if (leaf.frames == 1) continue;
    const std::byte* state = source.fields[leaf.state] + i * leaf.nbytes;
    for (std::uint32_t f = 0; f + 1 < frame_stack_; ++f) {
      const std::byte* frame =
          frames[f + 1].of(leaf.row_offset, leaf.block_offset, leaf.frame_bytes);
      if (std::memcmp(frame, state + f * leaf.frame_bytes, leaf.frame_bytes) != 0) return false;
    }
  }
  return true;
}

void CompactRows::write(const RowsView& view, std::uint32_t lane, std::byte* row,
                        const RowSource& source, std::size_t i) {
  const LaneState& state = view.lanes[lane];
  const std::uint64_t present = state.pushed - state.cleared;
  if (present >= view.lane_slots) {
    const Links overwritten = links(row);
    release(overwritten.next);
    release(overwritten.head);
  }
  Links own = {.next = kNone, .head = kNone};
  bool follows = false;
  if (present > 0 && view.lane_slots > 1) {  // with one place this row overwrites the one before
    const RowId previous = {lane, state.pushed - 1};
    auto* previous_row = const_cast<std::byte*>(view.row(previous));
    Links theirs = links(previous_row);
    follows = frame_stack_ == 1 || goes_on(view, previous, source, i);
    if (is_state(theirs.next, source, i)) {
      own.next = theirs.next;  // for this row's next state
      theirs.next = kNone;
      set_links(previous_row, theirs);
    }
  }
  if (frame_stack_ > 1 && !follows) own.head = blocks_.acquire();
  if (own.next == kNone) own.next = blocks_.acquire();
  set_links(row, own);
  std::byte* next = blocks_.at(own.next);
  for (const ObservationLeaf& leaf : leaves_) {
    const std::byte* observation = source.fields[leaf.state] + i * leaf.nbytes;
    const std::size_t older = leaf.nbytes - leaf.frame_bytes;
    std::memcpy(row + leaf.row_offset, observation + older, leaf.frame_bytes);
    if (own.head != kNone) {
      std::memcpy(blocks_.at(own.head) + leaf.block_offset, observation, older);
    }
    std::memcpy(next + leaf.block_offset, source.fields[leaf.next] + i * leaf.nbytes, leaf.nbytes);
  }
}

void CompactRows::find_state(const RowsView& view, RowId id, FramePlace* frames) const {
  const std::uint32_t newest = frame_stack_ - 1;
  for (std::uint32_t back = 0; back <= newest; ++back) {
    const std::byte* row = view.row({id.lane, id.serial - back});
    frames[newest - back] = {.base = row, .frame = -1};
    const std::uint32_t head = back < newest ? links(row).head : kNone;
    if (head == kNone) continue;
    // The frames before this row's own, `back` places further down in its stack.
    const std::byte* block = blocks_.at(head);
    for (std::uint32_t f = 0; f < newest - back; ++f) {
      frames[f] = {.base = block, .frame = static_cast<std::int32_t>(f + back)};
    }
    return;
  }
}

void CompactRows::find_next_state(const RowsView& view, RowId id, FramePlace* frames) const {
  const std::uint32_t next = links(view.row(id)).next;
  if (next == kNone) return find_state(view, {id.lane, id.serial + 1}, frames);
  const std::byte* block = blocks_.at(next);
  for (std::uint32_t f = 0; f < frame_stack_; ++f) {
    frames[f] = {.base = block, .frame = static_cast<std::int32_t>(f)};
  }
}

void CompactRows::renumber(std::byte* row_copy, std::vector<std::uint32_t>& blocks) const {
  Links both = links(row_copy);
  for (std::uint32_t* link : {&both.next, &both.head}) {
    if (*link == kNone) continue;
    blocks.push_back(*link);
    *link = static_cast<std::uint32_t>(blocks.size() - 1);
  }
  set_links(row_copy, both);
}

std::size_t CompactRows::check_all(std::span<const SavedLane> lanes,
                                   std::span<const std::byte> rows, std::size_t pitch,
                                   std::uint64_t capacity, std::size_t blocks_nbytes) const {
  const std::size_t count = blocks_nbytes / blocks_.block_bytes();
  if (blocks_nbytes != count * blocks_.block_bytes()) {
    throw ValueError("blocks: expected whole ones of " + std::to_string(blocks_.block_bytes()) +
                     " bytes, got " + std::to_string(blocks_nbytes) + " bytes");
  }
  std::vector<bool> used(count);
  for (const SavedLane& lane : lanes) {
    const std::size_t nbytes = (lane.pushed - lane.first) * pitch;
    check(rows.first(nbytes), pitch, capacity, used);
    rows = rows.subspan(nbytes);
  }
  const auto unused = std::count(used.begin(), used.end(), false);
  if (unused > 0) {
    throw ValueError("blocks: expected a row for each, got " + std::to_string(unused) +
                     " that none leads to");
  }
  return count;
}

void CompactRows::check(std::span<const std::byte> rows, std::size_t pitch, std::uint64_t capacity,
                        std::vector<bool>& used) const {
  const std::size_t count = rows.size() / pitch;
  const auto take = [&](std::uint32_t block) {
    if (block == kNone) return true;
    if (block >= used.size() || used[block]) return false;
    used[block] = true;
    return true;
  };
  bool begun = false;  // with a row whose stack is whole
  for (std::size_t i = 0; i < count; ++i) {
    const Links both = links(rows.data() + i * pitch);
    begun = begun || both.head != kNone || i + 1 >= frame_stack_;
    const bool leads_on = i + 1 < count || both.next != kNone;
    const bool alive = count - i <= capacity;
    const bool may_have_head = frame_stack_ > 1 || both.head == kNone;
    if (may_have_head && take(both.next) && take(both.head) && leads_on && (begun || !alive)) {
      continue;
    }
    throw ValueError("rows: expected links to " + std::to_string(used.size()) +
                     " blocks, one to each, or to rows beside them, got others");
  }
}

void CompactRows::restore(const std::byte* blocks, std::size_t count) {
  blocks_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(blocks_.at(blocks_.acquire()), blocks + i * blocks_.block_bytes(),
                blocks_.block_bytes());
  }
}

}  // namespace velora
