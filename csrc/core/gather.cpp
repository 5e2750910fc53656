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
constexpr std::size_t kBlock = kGatherBlock;

/// Some rows of a batch, `count` of them from place `first` on.
struct Block {
  std::size_t first = 0;
  std::size_t count = 0;
  const std::byte* rows[kBlock];
  const std::byte* next[kBlock];  // where the next state lies, as in a row
  std::uint8_t last_flags[kBlock];
  double discount[kBlock];
  RowId last[kBlock];
};

/// Into the second-level cache. A prefetch that passes it by made a sample half as long again.
void prefetch(const std::byte* from, std::uint64_t nbytes) {
  for (std::uint64_t offset = 0; offset < nbytes; offset += kCacheLine) {
    __builtin_prefetch(from + offset, 0, 2);
  }
}

/// Gathers one batch, block by block in three stages: ask the memory for the rows; look where each
/// step leads and ask for that; copy.
class Gatherer {
 public:
  Gatherer(const RowsView& view, const CompactRows* compact, std::span<const RowId> ids,
           const BatchTarget& target, std::size_t place)
      : view_(view),
        compact_(compact),
        ids_(ids),
        target_(target),
        place_(place),
        looks_ahead_(target.n_step > 1),
        finds_next_(
            compact != nullptr &&
            std::any_of(target.columns, target.columns + target.num_columns,
                        [](const Column& column) { return column.source == Source::kNext; })) {}

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
  void fetch(std::size_t first, Block& block) const {
    block.first = first;
    block.count = std::min(kBlock, ids_.size() - first);
    const std::uint64_t nbytes = std::min(view_.pitch, kPrefetchBytes);
    for (std::size_t i = 0; i < block.count; ++i) {
      const RowId id = ids_[first + i];
      block.rows[i] = view_.row(id);
      prefetch(block.rows[i], nbytes);
      if (!looks_ahead_) continue;
      const std::uint64_t steps = std::min(target_.n_step, kPrefetchSteps);
      const std::uint64_t end = std::min(id.serial + steps, view_.end(id.lane));
      for (std::uint64_t serial = id.serial + 1; serial < end; ++serial) {
        const std::byte* row = view_.row({id.lane, serial});
        prefetch(row + target_.reward_offset, 1);
        prefetch(row + view_.flags_offset, 1);
      }
    }
  }

  void follow(Block& block) const {
    const double one_step = target_.gamma;
    for (std::size_t i = 0; i < block.count; ++i) {
      const RowId id = ids_[block.first + i];
      block.last[i] = id;
      block.next[i] = block.rows[i];
      block.discount[i] = one_step;
      if (looks_ahead_) {
        const Lookahead ahead = look_ahead(view_, id, target_);
        target_.rewards[place_ + block.first + i] = static_cast<float>(ahead.reward);
        block.last[i] = ahead.last;
        block.discount[i] = ahead.discount;
        block.next[i] = view_.row(ahead.last);
      }
      block.last_flags[i] = static_cast<std::uint8_t>(block.next[i][view_.flags_offset]);
      if (finds_next_) {
        FramePlace place_of_next;  // kNext is of rows without stacks: one frame
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
      std::byte* out = column.out + (place_ + block.first) * column.nbytes;
      copy_block(
          block.count, column.nbytes, [&](std::size_t i) { return out + i * column.nbytes; },
          [&](std::size_t i) { return rows[i] + column.row_offset; });
    }
    for (std::size_t i = 0; i < block.count; ++i) {
      const auto flags = static_cast<std::uint8_t>(block.rows[i][view_.flags_offset]);
      emit_step(target_, place_ + block.first + i, ids_[block.first + i], flags,
                block.last_flags[i], block.discount[i]);
    }
  }

  void copy_frames(const Block& block, const Column& column) const {
    FramePlace frames[ObservationStorage::kMaxFrameStack];
    const std::size_t nbytes = column.nbytes / column.frames;
    for (std::size_t i = 0; i < block.count; ++i) {
      std::byte* out = column.out + (place_ + block.first + i) * column.nbytes;
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
  std::span<const RowId> ids_;
  const BatchTarget& target_;
  std::size_t place_;  // of the first row in the batch
  bool looks_ahead_;
  bool finds_next_;  // in compact rows
};

/// What emit_step() writes, for steps that lie one after the other: part by part, in loops that a
/// compiler turns into wide instructions.
void emit_run(const RowsView& view, const std::byte* rows, RowId id, std::size_t count,
              const BatchTarget& target, std::size_t first) {
  constexpr std::size_t kPart = 128;
  std::uint8_t flags[kPart];
  const auto worth = static_cast<float>(target.gamma);
  for (std::size_t done = 0; done < count; done += kPart) {
    const std::size_t size = std::min(kPart, count - done);
    for (std::size_t i = 0; i < size; ++i) {
      flags[i] = static_cast<std::uint8_t>(rows[(done + i) * view.pitch + view.flags_offset]);
    }
    const std::size_t place = first + done;
    const auto emit_flag = [&](float* part, std::uint8_t flag) {
      if (part == nullptr) return;
      for (std::size_t i = 0; i < size; ++i) part[place + i] = (flags[i] & flag) != 0 ? 1.0f : 0.0f;
    };
    emit_flag(target.dones, kDone);
    emit_flag(target.truncations, kTruncated);
    emit_flag(target.is_first, kFirst);
    if (target.discounts != nullptr) {
      for (std::size_t i = 0; i < size; ++i) {
        target.discounts[place + i] = (flags[i] & kDone) != 0 ? 0.0f : worth;
      }
    }
    if (target.indices != nullptr) {
      const auto index = static_cast<std::int64_t>(id.packed() + done);
      for (std::size_t i = 0; i < size; ++i) {
        target.indices[place + i] = index + static_cast<std::int64_t>(i);
      }
    }
  }
}

/// Rows that lie one after the other, into places from `first` on.
void copy_run(const RowsView& view, const std::byte* rows, RowId id, std::size_t count,
              const BatchTarget& target, std::size_t first) {
  for (std::uint32_t c = 0; c < target.num_columns; ++c) {
    const Column& column = target.columns[c];
    std::byte* out = column.out + first * column.nbytes;
    const std::byte* in = rows + column.row_offset;
    copy_block(
        count, column.nbytes, [&](std::size_t i) { return out + i * column.nbytes; },
        [&](std::size_t i) { return in + i * view.pitch; });
  }
  emit_run(view, rows, id, count, target, first);
}

}  // namespace

std::size_t row_bytes(const BatchTarget& target) {
  std::size_t bytes = 0;
  for (std::uint32_t c = 0; c < target.num_columns; ++c) bytes += target.columns[c].nbytes;
  for (const float* part :
       {target.rewards, target.dones, target.truncations, target.discounts, target.is_first}) {
    if (part != nullptr) bytes += sizeof(float);
  }
  return bytes + (target.indices != nullptr ? sizeof(std::int64_t) : 0);
}

void gather(const RowsView& view, const CompactRows* compact, std::span<const RowId> ids,
            const BatchTarget& target, std::size_t first) {
  Gatherer(view, compact, ids, target, first).run();
}

void gather_run(const RowsView& view, const CompactRows* compact, RowId id, std::size_t count,
                const BatchTarget& target, std::size_t first) {
  if (compact != nullptr) {
    constexpr std::size_t kPart = 64;
    RowId ids[kPart];
    while (count > 0) {
      const std::size_t part = std::min(count, kPart);
      for (std::size_t i = 0; i < part; ++i) ids[i] = {id.lane, id.serial + i};
      gather(view, compact, {ids, part}, target, first);
      id.serial += part;
      first += part;
      count -= part;
    }
    return;
  }
  each_piece(view, id, count, [&](const std::byte* rows, RowId piece, std::size_t size) {
    copy_run(view, rows, piece, size, target, first);
    first += size;
  });
}

void prefetch_run(const RowsView& view, RowId id, std::size_t count) {
  // Longer runs are streams that the hardware prefetcher follows by itself.
  constexpr std::uint64_t kMost = std::uint64_t{16} << 10;
  each_piece(view, id, count, [&](const std::byte* rows, RowId, std::size_t size) {
    prefetch(rows, std::min<std::uint64_t>(size * view.pitch, kMost));
  });
}

void pad(const BatchTarget& target, std::size_t first, std::size_t count) {
  for (std::uint32_t c = 0; c < target.num_columns; ++c) {
    const Column& column = target.columns[c];
    std::memset(column.out + first * column.nbytes, 0, count * column.nbytes);
  }
  for (float* part :
       {target.rewards, target.dones, target.truncations, target.discounts, target.is_first}) {
    if (part != nullptr) std::fill_n(part + first, count, 0.0f);
  }
  if (target.indices != nullptr) std::fill_n(target.indices + first, count, -1);
}

}  // namespace velora
