#include "core/gather.h"

#include <algorithm>
#include <cstring>

#include "core/block_copy.h"
#include "core/compact_rows.h"

namespace velora {
namespace {

constexpr std::uint64_t kCacheLine = 64;
// A longer row is a stream that the hardware prefetcher follows by itself.
constexpr std::uint64_t kPrefetchBytes = 1024;
// Rows ahead that are fetched for what a step sums up. A longer walk is a stream, too.
constexpr std::uint32_t kPrefetchSteps = 16;
// Rows copied together while as many are on their way from memory: enough to hide a miss, few
// enough for the first-level cache.
constexpr std::size_t kBlock = 16;

/// Some rows of a batch, `count` of them from place `first` on.
struct Block {
  std::size_t first = 0;
  std::size_t count = 0;
  const std::byte* rows[kBlock];
  const std::byte* next[kBlock];  // where the next state lies, as in a row
  std::uint8_t last_flags[kBlock];
  double power[kBlock];
  RowId last[kBlock];
};

void prefetch(const std::byte* from, std::uint64_t nbytes) {
  for (std::uint64_t offset = 0; offset < nbytes; offset += kCacheLine) {
    __builtin_prefetch(from + offset, 0, 0);
  }
}

/// Gathers one batch, block by block in three stages: ask the memory for the rows; look where each
/// step leads and ask for that; copy.
class Gatherer {
 public:
  Gatherer(const RowsView& view, const CompactRows* compact, const std::byte* zero_row,
           std::span<const RowId> ids, const BatchTarget& target)
      : view_(view),
        compact_(compact),
        zero_row_(zero_row),
        ids_(ids),
        target_(target),
        looks_ahead_(target.n_step > 1),
        has_stacks_(std::any_of(target.columns, target.columns + target.num_columns,
                                [](const Column& column) { return column.source >= Source::kFrames; })) {}

  void run() {
    constexpr std::size_t kStages = 3;
    Block blocks[kStages];
    const std::size_t count = (ids_.size() + kBlock - 1) / kBlock;
    for (std::size_t b = 0; b < count + kStages - 1; ++b) {
      if (b < count) fetch(b * kBlock, blocks[b % kStages]);
      if (b >= 1 && b - 1 < count) follow(blocks[(b - 1) % kStages]);
      if (b >= 2) copy(blocks[(b - 2) % kStages]);
    }
  }

 private:
  bool is_padding(std::size_t i) const { return ids_[i].lane == RowId::kNoLane; }

  void fetch(std::size_t first, Block& block) const {
    block.first = first;
    block.count = std::min(kBlock, ids_.size() - first);
    const std::uint64_t nbytes = std::min(view_.pitch, kPrefetchBytes);
    for (std::size_t i = 0; i < block.count; ++i) {
      if (is_padding(first + i)) {
        block.rows[i] = zero_row_;
        continue;
      }
      const RowId id = ids_[first + i];
      block.rows[i] = view_.row(id);
      prefetch(block.rows[i], nbytes);
      if (!looks_ahead_) continue;
      const std::uint64_t steps = std::min(target_.n_step, kPrefetchSteps);
      const std::uint64_t end = std::min(id.serial + steps, view_.end(id.lane));
      for (std::uint64_t serial = id.serial + 1; serial < end; ++serial) {
        const std::byte* row = view_.row({id.lane, serial});
        __builtin_prefetch(row + target_.reward_offset, 0, 0);
        __builtin_prefetch(row + view_.flags_offset, 0, 0);
      }
    }
  }

  void follow(Block& block) const {
    const double one_step = target_.gamma;
    for (std::size_t i = 0; i < block.count; ++i) {
      const std::size_t place = block.first + i;
      block.last[i] = ids_[place];
      block.next[i] = block.rows[i];
      block.power[i] = one_step;
      if (is_padding(place)) continue;
      if (looks_ahead_) {
        const Lookahead ahead = look_ahead(view_, ids_[place], target_);
        target_.rewards[place] = static_cast<float>(ahead.reward);
        block.last[i] = ahead.last;
        block.power[i] = ahead.power;
        block.next[i] = view_.row(ahead.last);
      }
      block.last_flags[i] = static_cast<std::uint8_t>(block.next[i][view_.flags_offset]);
      if (compact_ != nullptr && !has_stacks_) {
        FramePlace place_of_next;
        compact_->find_next_state(view_, block.last[i], &place_of_next);
        block.next[i] = place_of_next.base;
      }
      if (block.next[i] != block.rows[i]) {
        prefetch(block.next[i], std::min(view_.pitch, kPrefetchBytes));
      }
    }
  }

  void copy(const Block& block) const {
    for (std::uint32_t c = 0; c < target_.num_columns; ++c) {
      const Column& column = target_.columns[c];
      if (column.source >= Source::kFrames) {
        copy_frames(block, column);
        continue;
      }
      const std::byte* const* rows = column.source == Source::kNext ? block.next : block.rows;
      std::byte* out = column.out + block.first * column.nbytes;
      copy_block(
          block.count, column.nbytes, [&](std::size_t i) { return out + i * column.nbytes; },
          [&](std::size_t i) { return rows[i] + column.row_offset; });
    }
    for (std::size_t i = 0; i < block.count; ++i) {
      const std::size_t place = block.first + i;
      if (is_padding(place)) {
        emit_padding(target_, place);
      } else {
        const auto flags = static_cast<std::uint8_t>(block.rows[i][view_.flags_offset]);
        emit_step(target_, place, ids_[place], flags, block.last_flags[i], block.power[i]);
      }
    }
  }

  void copy_frames(const Block& block, const Column& column) const {
    FramePlace frames[ObservationStorage::kMaxFrameStack];
    const std::size_t nbytes = column.nbytes / column.frames;
    for (std::size_t i = 0; i < block.count; ++i) {
      std::byte* out = column.out + (block.first + i) * column.nbytes;
      if (is_padding(block.first + i)) {
        std::memset(out, 0, column.nbytes);
        continue;
      }
      const std::size_t newest = compact_->frame_stack() - 1;
      if (column.source == Source::kFrames) {
        compact_->find_state(view_, ids_[block.first + i], frames);
      } else {
        compact_->find_next_state(view_, block.last[i], frames);
      }
      if (column.frames == 1) {  // not a stack: all of it goes with the newest frame
        std::memcpy(out, frames[newest].of(column.row_offset, column.block_offset, 0), nbytes);
        continue;
      }
      for (std::size_t f = 0; f <= newest; ++f) {
        std::memcpy(out + f * nbytes, frames[f].of(column.row_offset, column.block_offset, nbytes),
                    nbytes);
      }
    }
  }

  const RowsView& view_;
  const CompactRows* compact_;
  const std::byte* zero_row_;
  std::span<const RowId> ids_;
  const BatchTarget& target_;
  bool looks_ahead_;
  bool has_stacks_;
};

}  // namespace

void gather(const RowsView& view, const CompactRows* compact, const std::byte* zero_row,
            std::span<const RowId> ids, const BatchTarget& target) {
  Gatherer(view, compact, zero_row, ids, target).run();
}

}  // namespace velora
