#include "core/rows/compact_rule.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/values/errors.h"

namespace velora {
namespace {

/// All of a layout of compact rows, in the order of their fields.
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

}  // namespace

CompactRule::CompactRule(const RowLayout& layout, std::uint64_t num_slots)
    : links_offset_(layout.links_offset()),
      block_bytes_(layout.block_bytes()),
      frame_stack_(layout.frame_stack()),
      num_slots_(num_slots),
      leaves_(observation_leaves(layout)) {}

std::uint64_t CompactRule::most_added(std::uint64_t rows, std::uint64_t used) const {
  return std::min(blocks_per_row() * rows, most_blocks() - used);
}

bool CompactRule::is_state(const std::byte* block, const RowSource& source, std::size_t i) const {
  for (const ObservationLeaf& leaf : leaves_) {
    const std::byte* state = source.fields[leaf.state] + i * leaf.nbytes;
    if (std::memcmp(block + leaf.block_offset, state, leaf.nbytes) != 0) return false;
  }
  return true;
}

void CompactRule::write(std::byte* row, std::byte* head, std::byte* next, const RowSource& source,
                        std::size_t i) const {
  for (const ObservationLeaf& leaf : leaves_) {
    const std::byte* state = source.fields[leaf.state] + i * leaf.nbytes;
    const std::size_t older = leaf.nbytes - leaf.frame_bytes;
    std::memcpy(row + leaf.row_offset, state + older, leaf.frame_bytes);
    if (head != nullptr) std::memcpy(head + leaf.block_offset, state, older);
  }
  write_next_state(next, source, i);
}

void CompactRule::write_state(std::byte* block, const RowSource& source, std::size_t i) const {
  for (const ObservationLeaf& leaf : leaves_) {
    std::memcpy(block + leaf.block_offset, source.fields[leaf.state] + i * leaf.nbytes,
                leaf.nbytes);
  }
}

void CompactRule::write_next_state(std::byte* block, const RowSource& source, std::size_t i) const {
  for (const ObservationLeaf& leaf : leaves_) {
    std::memcpy(block + leaf.block_offset, source.fields[leaf.next] + i * leaf.nbytes, leaf.nbytes);
  }
}

void CompactRule::renumber(std::byte* row_copy, std::vector<std::uint32_t>& blocks) const {
  Links both = links(row_copy);
  for (std::uint32_t* link : {&both.next, &both.head}) {
    if (*link == Links::kNone) continue;
    blocks.push_back(*link);
    *link = static_cast<std::uint32_t>(blocks.size() - 1);
  }
  set_links(row_copy, both);
}

std::size_t CompactRule::check_all(std::span<const SavedLane> lanes,
                                   std::span<const std::byte> rows, std::size_t pitch,
                                   std::uint64_t capacity, std::size_t blocks_nbytes) const {
  const std::size_t count = blocks_nbytes / block_bytes_;
  if (blocks_nbytes != count * block_bytes_) {
    throw ValueError("blocks: expected whole ones of " + std::to_string(block_bytes_) +
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

void CompactRule::check(std::span<const std::byte> rows, std::size_t pitch, std::uint64_t capacity,
                        std::vector<bool>& used) const {
  const std::size_t count = rows.size() / pitch;
  const auto take = [&](std::uint32_t block) {
    if (block == Links::kNone) return true;
    if (block >= used.size() || used[block]) return false;
    used[block] = true;
    return true;
  };
  bool begun = false;  // with a row whose stack is whole
  for (std::size_t i = 0; i < count; ++i) {
    const Links both = links(rows.data() + i * pitch);
    begun = begun || both.head != Links::kNone || i + 1 >= frame_stack_;
    const bool leads_on = i + 1 < count || both.next != Links::kNone;
    const bool alive = count - i <= capacity;
    const bool may_have_head = frame_stack_ > 1 || both.head == Links::kNone;
    if (may_have_head && take(both.next) && take(both.head) && leads_on && (begun || !alive)) {
      continue;
    }
    throw ValueError("rows: expected links to " + std::to_string(used.size()) +
                     " blocks, one to each, or to rows beside them, got others");
  }
}

}  // namespace velora
