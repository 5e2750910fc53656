#include "core/host/store.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "core/memory/block_copy.h"
#include "core/memory/stream_copy.h"
#include "core/values/round_up.h"

namespace velora {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kPrefetchBytes = 512;

// Rows that are written past the caches: from how many bytes at once on, for stores that no cache
// holds, and of what length at most.
constexpr std::size_t kLeastStreamedBytes = std::size_t{16} << 10;
constexpr std::size_t kLeastStreamedStore = std::size_t{64} << 20;
constexpr std::size_t kMostStreamedPitch = 1024;

std::size_t header_bytes(std::uint32_t num_lanes) {
  return round_up(Lanes::nbytes(num_lanes), kPage);
}

/// A row's stack is read through the rows before it.
RowExtent extent_of(const RowLayout& layout, std::uint64_t lane_capacity, std::uint32_t num_lanes) {
  return {.lane_capacity = lane_capacity,
          .num_lanes = num_lanes,
          .pitch = layout.pitch(),
          .spare_slots = layout.frame_stack() - 1};
}

// Of huge pages that are resident before there are rows to fill them.
constexpr std::size_t kMostAhead = std::size_t{32} << 20;
// To move it takes about a millisecond.
constexpr std::size_t kMovedAtOnce = 4 * Memory::kHugePage;

Pages pages_of(std::uint32_t num_lanes) {
  return num_lanes * Memory::kHugePage > kMostAhead ? Pages::kSmall : Pages::kHuge;
}

Memory allocate(const RowExtent& extent) {
  extent.check();
  const std::size_t header = header_bytes(extent.num_lanes);
  const std::size_t rows = extent.nbytes();
  const std::size_t bytes = rows > SIZE_MAX - header ? SIZE_MAX : header + rows;
  return Memory::anonymous(bytes, extent.describe().c_str(), pages_of(extent.num_lanes));
}

}  // namespace

Store::Store(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
             std::uint64_t seed, std::shared_ptr<Sampler> sampler)
    : layout_(std::move(layout)),
      rows_offset_(header_bytes(num_lanes)),
      memory_(allocate(extent_of(layout_, lane_capacity, num_lanes))),
      small_pages_(pages_of(num_lanes) == Pages::kSmall ? 0 : memory_.size()),
      lanes_(memory_.data(), extent_of(layout_, lane_capacity, num_lanes), seed),
      sizes_(num_lanes),
      compact_(layout_.compact()
                   ? std::make_unique<CompactRows>(layout_, num_lanes * lanes_.control().lane_slots)
                   : nullptr),
      reader_(*this, std::move(sampler)) {}

std::size_t Store::nbytes() const {
  return memory_.size() + (compact_ ? compact_->blocks().nbytes() : 0) + reader_.sampler().nbytes();
}

void Store::append(const LaneOrder& lanes, const RowSource& source, std::size_t count,
                   void* /*stream*/) {
  if (compact_) {
    append_compact(lanes, source, count);
  } else {
    append_whole(lanes, source, count);
  }
  if (source.priorities != nullptr) give_priorities(lanes, {source.priorities, count});
  // Some of them with each append, so that none takes long.
  if (small_pages_ < memory_.size()) put_on_huge_pages(view().size(), kMovedAtOnce);
}

/// To the newest rows of their lanes.
void Store::give_priorities(const LaneOrder& lanes, std::span<const float> priorities) {
  // From the last row on, since the serials of lanes are those after it.
  std::vector<std::uint64_t> ends(priorities.size() > 1 ? lanes_.num_lanes() : 0);
  std::vector<std::uint32_t> of_rows(priorities.size());
  std::uint32_t lane = lanes.before_first();
  for (std::size_t i = 0; i < of_rows.size(); ++i) of_rows[i] = lane = lanes.next(i, lane);
  for (std::size_t i = of_rows.size(); i-- > 0;) {
    const std::uint32_t of_row = of_rows[i];
    const std::uint64_t later = ends.empty() ? 0 : ends[of_row]++;
    reader_.sampler().give({of_row, lanes_.states()[of_row].pushed - 1 - later}, priorities[i]);
  }
}

/// So many bytes at most, if there are rows enough to fill half of all.
void Store::put_on_huge_pages(std::uint64_t rows, std::size_t most) {
  const ControlBlock& control = lanes_.control();
  if (2 * rows < control.lane_capacity * control.num_lanes) return;
  const std::size_t bytes = std::min(most, memory_.size() - small_pages_);
  memory_.use_huge_pages(small_pages_, bytes / Memory::kHugePage * Memory::kHugePage);
  small_pages_ += bytes;
}

void Store::append_whole(const LaneOrder& lanes, const RowSource& source, std::size_t count) {
  if (streams(count)) return append_streamed(lanes, source, count);
  // While the fields of one block are written, the rows of the next are on their way. Two rows can
  // share a slot, where a lane is short: each field is written in their order, so the newer one
  // stays.
  NewRows blocks[2];
  std::uint32_t lane = lanes.before_first();
  begin_rows(lanes, source, 0, std::min(kBlock, count), lane, blocks[0]);
  prefetch_rows(blocks[0], std::min(kBlock, count));
  for (std::size_t first = 0, current = 0; first < count; first += kBlock, current ^= 1) {
    const std::size_t next = first + kBlock;
    if (next < count) {
      begin_rows(lanes, source, next, std::min(kBlock, count - next), lane, blocks[current ^ 1]);
      prefetch_rows(blocks[current ^ 1], std::min(kBlock, count - next));
    }
    write_rows(blocks[current], source, first, std::min(kBlock, count - first));
  }
}

/// Whether to write `count` rows past the caches: the store is far larger than these, so rows are
/// rarely drawn while they are still cached.
bool Store::streams(std::size_t count) const {
  const std::size_t pitch = layout_.pitch();
  return pitch % kCacheLine == 0 && pitch <= kMostStreamedPitch &&
         count * pitch >= kLeastStreamedBytes && memory_.size() >= kLeastStreamedStore;
}

/// Assembles rows a block at a time and writes their lines to memory.
void Store::append_streamed(const LaneOrder& lanes, const RowSource& source, std::size_t count) {
  alignas(kCacheLine) std::byte lines[kBlock * kMostStreamedPitch];
  const std::size_t pitch = layout_.pitch();
  std::memset(lines, 0, kBlock * pitch);  // the gaps between fields
  NewRows block;
  NewRows staged;
  for (std::size_t i = 0; i < kBlock; ++i) staged.rows[i] = lines + i * pitch;
  std::uint32_t lane = lanes.before_first();
  for (std::size_t first = 0; first < count; first += kBlock) {
    const std::size_t size = std::min(kBlock, count - first);
    begin_rows(lanes, source, first, size, lane, block);
    std::copy_n(block.flags, size, staged.flags);
    write_rows(staged, source, first, size);
    for (std::size_t i = 0; i < size; ++i) stream_lines(block.rows[i], staged.rows[i], pitch);
  }
  end_stream();
}

void Store::begin_rows(const LaneOrder& lanes, const RowSource& source, std::size_t first,
                       std::size_t count, std::uint32_t& lane, NewRows& out) {
  std::byte* const base = rows();
  const std::size_t pitch = layout_.pitch();
  std::uint32_t of_row = lane;
  for (std::size_t i = 0; i < count; ++i) {
    of_row = lanes.next(first + i, of_row);
    const Lanes::NewRow row = lanes_.append(of_row, source.flags(first + i));
    out.rows[i] = base + row.index * pitch;
    out.flags[i] = row.flags;
  }
  lane = of_row;
}

void Store::prefetch_rows(const NewRows& block, std::size_t count) const {
  const std::size_t prefetched = std::min<std::size_t>(layout_.pitch(), kPrefetchBytes);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t offset = 0; offset < prefetched; offset += kCacheLine) {
      __builtin_prefetch(block.rows[i] + offset, 1, 3);
    }
  }
}

void Store::write_rows(const NewRows& block, const RowSource& source, std::size_t first,
                       std::size_t count) {
  std::byte* const* const rows = block.rows;
  for (std::size_t f = 0; f < layout_.fields().size(); ++f) {
    const std::size_t offset = layout_.fields()[f].offset;
    const std::size_t nbytes = layout_.fields()[f].nbytes;
    const std::byte* values = source.fields[f] + first * nbytes;
    copy_block(
        count, nbytes, [rows, offset](std::size_t i) { return rows[i] + offset; },
        [values, nbytes](std::size_t i) { return values + i * nbytes; });
  }
  const std::size_t flags_offset = layout_.flags_offset();
  for (std::size_t i = 0; i < count; ++i) rows[i][flags_offset] = std::byte{block.flags[i]};
}

void Store::append_compact(const LaneOrder& lanes, const RowSource& source, std::size_t count) {
  compact_->reserve(count);
  std::uint32_t lane = lanes.before_first();
  for (std::size_t i = 0; i < count; ++i) {
    lane = lanes.next(i, lane);
    std::byte* row = next_row(lane);
    compact_->write(view(), lane, row, source, i);
    for (std::size_t f = 0; f < layout_.fields().size(); ++f) {
      const Field& field = layout_.fields()[f];
      if (field.role == Role::kState || field.role == Role::kNextState) continue;
      std::memcpy(row + field.offset, source.fields[f] + i * field.nbytes, field.nbytes);
    }
    const std::uint8_t flags = lanes_.next_flags(lane, source.flags(i));
    row[layout_.flags_offset()] = std::byte{flags};
    lanes_.commit(lane, flags);
  }
}

void Store::end_episode(std::uint32_t lane, void* /*stream*/) {
  if (!lanes_.end_episode(lane)) return;
  const RowsView view = this->view();
  const RowId newest = {lane, view.end(lane) - 1};
  rows()[view.row_index(newest) * layout_.pitch() + layout_.flags_offset()] |=
      std::byte{kTruncated};
  lanes_.patch(newest);
}

void Store::update_fields(std::span<const RowId> ids, const RowSource& source,
                          std::span<bool> updated, void* /*stream*/) {
  const RowsView view = this->view();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    updated[i] = view.alive(ids[i]);
    if (!updated[i]) continue;
    std::byte* row = rows() + view.row_index(ids[i]) * layout_.pitch();
    for (std::size_t f = 0; f < layout_.fields().size(); ++f) {
      const Field& field = layout_.fields()[f];
      if (source.fields[f] == nullptr) continue;
      std::memcpy(row + field.offset, source.fields[f] + i * field.nbytes, field.nbytes);
    }
    lanes_.patch(ids[i]);
  }
}

void Store::clear(void* /*stream*/) {
  lanes_.clear();
  if (compact_) compact_->clear();
}

void Store::sample(std::uint64_t count, const BatchTarget& target, void* /*stream*/,
                   const PartRunner* runner) {
  reader_.sample(count, target, runner);
}

void Store::sample_replaced(std::uint64_t count, const BatchTarget& target, void* /*stream*/,
                            const PartRunner* runner) {
  reader_.sample_replaced(count, target, runner);
}

void Store::gather(const RowNames& names, const BatchTarget& target, void* /*stream*/,
                   const PartRunner* runner) {
  reader_.gather(names, target, runner);
}

void Store::take(std::uint64_t start, std::uint64_t count, const BatchTarget& target,
                 void* /*stream*/, const PartRunner* runner) {
  reader_.take(start, count, target, runner);
}

std::uint64_t Store::count_sequences(const SequenceSpec& spec, void* /*stream*/) {
  return reader_.count_sequences(spec);
}

void Store::sample_sequences(const SequenceSpec& spec, std::uint64_t count,
                             const SequenceTarget& target, void* /*stream*/,
                             const PartRunner* runner) {
  reader_.sample_sequences(spec, count, target, runner);
}

void Store::update_priorities(std::span<const RowId> rows, std::span<const float> priorities,
                              std::span<bool> updated, void* /*stream*/) {
  reader_.sampler().update(view(), rows, priorities, updated);
}

std::vector<std::byte> Store::save_sampler(void* /*stream*/) {
  return reader_.sampler().save(view());
}

void Store::restore_sampler(std::span<const std::byte> saved, void* /*stream*/) {
  reader_.sampler().restore(view(), saved);
}

void Store::export_rows(std::span<const RowRange> ranges, std::span<std::byte> rows,
                        const BlockMemory& block_memory, void* /*stream*/) {
  const RowsView view = this->view();
  std::vector<std::uint32_t> numbers;
  std::byte* out = rows.data();
  for (const RowRange& range : ranges) {
    for (std::uint64_t serial = range.first; serial < range.end; ++serial) {
      std::memcpy(out, view.row({range.lane, serial}), view.pitch);
      if (compact_) compact_->rule().renumber(out, numbers);
      out += view.pitch;
    }
  }
  if (numbers.empty()) return;
  const std::size_t nbytes = layout_.block_bytes();
  std::byte* blocks = block_memory(numbers.size() * nbytes);
  for (const std::uint32_t number : numbers) {
    std::memcpy(blocks, compact_->blocks().at(number), nbytes);
    blocks += nbytes;
  }
}

void Store::import_rows(const SavedRows& saved, void* /*stream*/) {
  const std::size_t num_blocks =
      check_saved(saved, lanes_, layout_, compact_ ? &compact_->rule() : nullptr);
  const BoolFields bools(layout_);
  if (compact_) compact_->reserve_blocks(num_blocks);
  clear();
  if (compact_) compact_->restore(saved.blocks.data(), num_blocks);
  for (std::uint32_t i = 0; i < num_blocks; ++i) bools.clean_block(compact_->blocks().at(i));
  lanes_.restore(saved.lanes);
  lanes_.set_draws(saved.draws);
  put_on_huge_pages(saved.rows.size() / layout_.pitch(), SIZE_MAX);
  const std::byte* row = saved.rows.data();
  for (std::uint32_t lane = 0; lane < saved.lanes.size(); ++lane) {
    const SavedLane& of = saved.lanes[lane];
    for (std::uint64_t serial = of.first; serial < of.pushed; ++serial) {
      std::byte* to = next_row(lane);
      std::memcpy(to, row, layout_.pitch());
      bools.clean_row(to);
      lanes_.commit(lane, static_cast<std::uint8_t>(row[layout_.flags_offset()]));
      row += layout_.pitch();
    }
  }
}

std::unique_ptr<Store> copy_to_host(Storage& storage, void* stream) {
  storage.settle(stream);
  const std::vector<SavedLane> lanes = storage.lanes().save();
  const std::vector<RowRange> ranges = ranges_of(lanes);
  std::vector<std::byte> rows(count_rows(ranges) * storage.layout().pitch());
  std::vector<std::byte> blocks;
  const auto block_memory = [&](std::size_t nbytes) {
    blocks.resize(nbytes);
    return blocks.data();
  };
  storage.export_rows(ranges, rows, block_memory, stream);
  const ControlBlock& control = storage.lanes().control();
  auto copy = std::make_unique<Store>(storage.layout(), control.lane_capacity,
                                      storage.lanes().num_lanes(), 0);
  copy->import_rows({.lanes = lanes, .rows = rows, .blocks = blocks});
  return copy;
}

}  // namespace velora
