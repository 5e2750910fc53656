#include "core/host/gather.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "core/batch/step.h"
#include "core/host/compact_rows.h"
#include "core/memory/block_copy.h"

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

/// Some rows of a batch, `count` of them from row `first` on.
struct Block {
  std::size_t first = 0;
  std::size_t count = 0;
  RowId ids[kBlock];
  const std::byte* rows[kBlock];
  // Where the steps lead, if one has to look.
  RowId last[kBlock];
  const std::byte* next[kBlock];  // where the next state lies, as in a row
  std::uint8_t last_flags[kBlock];
  float discount[kBlock];
};

void prefetch(const std::byte* from, std::uint64_t nbytes) {
  // A function that does nothing but prefetch counts as one without effect to GCC, which then drops
  // the calls to it that it does not inline.
  asm volatile("" : : "r"(from));
  for (std::uint64_t offset = 0; offset < nbytes; offset += kCacheLine) {
    __builtin_prefetch(from + offset);
  }
}

template <typename Count, typename Out, typename In>
void copy_field(Count count, std::size_t nbytes, Out out, In in) {
  if (nbytes < kStreamBytes) {
    copy_block(count, nbytes, out, in);
  } else {
    copy_stream(static_cast<std::size_t>(count), nbytes, out, in);
  }
}

/// Writes the parts that flags of steps decide, from row `first` of the batch on: part by part, in
/// loops that a compiler turns into wide instructions. `discount(i)` is what the future after step
/// i is worth.
template <typename Size, typename Discount>
void emit_flags(const BatchTarget& target, std::size_t first, Size size, const std::uint8_t* flags,
                const std::uint8_t* last_flags, const Discount& discount) {
  const auto emit_flag = [&](float* part, const std::uint8_t* from, std::uint8_t flag) {
    if (part == nullptr) return;
    for (std::size_t i = 0; i < size; ++i) part[first + i] = (from[i] & flag) != 0 ? 1.0f : 0.0f;
  };
  emit_flag(target.floats(BatchPart::kDones), last_flags, kDone);
  emit_flag(target.floats(BatchPart::kTruncations), last_flags, kTruncated);
  emit_flag(target.floats(BatchPart::kIsFirst), flags, kFirst);
  float* const discounts = target.floats(BatchPart::kDiscounts);
  if (discounts == nullptr) return;
  for (std::size_t i = 0; i < size; ++i) {
    discounts[first + i] = (last_flags[i] & kDone) != 0 ? 0.0f : discount(i);
  }
}

/// Calls f with the number of rows in a block: nearly always a whole one, whose number a compiler
/// knows. That saves the jumps at the ends of many short loops.
template <typename F>
void with_size(const Block& block, const F& f) {
  if (block.count == kBlock) {
    f(std::integral_constant<std::size_t, kBlock>());
  } else {
    f(block.count);
  }
}

/// Gathers one batch, block by block in stages: name the rows; ask the memory for them; look where
/// each step leads and ask for that, where the row itself does not say so; copy.
class Gatherer {
 public:
  Gatherer(const RowsView& view, const CompactRows* compact, const BatchTarget& target,
           std::size_t offset)
      : view_(view),
        compact_(compact != nullptr ? compact->view() : CompactView{}),
        target_(target),
        offset_(offset),
        looks_ahead_(target.n_step > 1),
        finds_next_(
            compact != nullptr &&
            std::any_of(target.columns, target.columns + target.num_columns,
                        [](const Column& column) { return column.source == Source::kNext; })),
        follows_(looks_ahead_ || compact != nullptr),
        prefetched_(std::min(view.pitch, kPrefetchBytes)),
        prefetches_at_once_((kBlock + kOtherWork + target.num_columns - 1) /
                            (kOtherWork + target.num_columns)) {}

  void run(RowStream& rows, std::size_t count) {
    const std::size_t num_blocks = (count + kBlock - 1) / kBlock;
    const std::size_t lag = follows_ ? 3 : 2;
    for (std::size_t b = 0; b < num_blocks + lag; ++b) {
      Prefetches prefetches(*this, at(b, 1, num_blocks));
      prefetches.some();
      if (b < num_blocks) {
        name(rows, b * kBlock, std::min(kBlock, count - b * kBlock), blocks_[b % kStages]);
      }
      if (follows_) {
        if (Block* block = at(b, 2, num_blocks)) follow(*block);
      }
      if (const Block* block = at(b, lag, num_blocks)) copy(*block, prefetches);
      prefetches.rest();
    }
  }

 private:
  static constexpr std::size_t kStages = 4;
  // Besides copying columns: to name rows and to write what their flags say.
  static constexpr std::size_t kOtherWork = 2;

  /// The rows of a block are asked for bit by bit among all other work. A processor has room for
  /// about ten lines on their way: it stands still when it asks for more, and the memory stands
  /// still while it asks for none.
  class Prefetches {
   public:
    /// Of no block where it is null.
    Prefetches(const Gatherer& gatherer, const Block* block)
        : gatherer_(gatherer), block_(block), count_(block == nullptr ? 0 : block->count) {}
    void some() { up_to(std::min(done_ + gatherer_.prefetches_at_once_, count_)); }
    void rest() { up_to(count_); }

   private:
    void up_to(std::size_t end) {
      for (; done_ < end; ++done_) gatherer_.prefetch_row(*block_, done_);
    }

    const Gatherer& gatherer_;
    const Block* block_;
    std::size_t count_;
    std::size_t done_ = 0;
  };

  /// The block that came `earlier` turns before turn `b`, if there is one.
  Block* at(std::size_t b, std::size_t earlier, std::size_t num_blocks) {
    return b >= earlier && b - earlier < num_blocks ? &blocks_[(b - earlier) % kStages] : nullptr;
  }

  void name(RowStream& rows, std::size_t first, std::size_t count, Block& block) const {
    block.first = first;
    block.count = count;
    rows.next({block.ids, count});
    with_size(block, [&](auto size) {
      for (std::size_t i = 0; i < size; ++i) block.rows[i] = view_.row(block.ids[i]);
    });
  }

  void prefetch_row(const Block& block, std::size_t i) const {
    prefetch(block.rows[i], prefetched_);
    if (!looks_ahead_) return;
    const RowId id = block.ids[i];
    const std::uint64_t steps = std::min(target_.n_step, kPrefetchSteps);
    const std::uint64_t end = std::min(id.serial + steps, view_.end(id.lane));
    for (std::uint64_t serial = id.serial + 1; serial < end; ++serial) {
      const std::byte* row = view_.row({id.lane, serial});
      prefetch(row + target_.reward_offset, 1);
      prefetch(row + view_.flags_offset, 1);
    }
  }

  void follow(Block& block) const {
    const auto one_step = static_cast<float>(target_.gamma);
    for (std::size_t i = 0; i < block.count; ++i) {
      block.last[i] = block.ids[i];
      block.next[i] = block.rows[i];
      block.discount[i] = one_step;
      if (looks_ahead_) {
        const Lookahead ahead = look_ahead(view_, block.ids[i], target_);
        target_.rewards[offset_ + block.first + i] = static_cast<float>(ahead.reward);
        block.last[i] = ahead.last;
        block.discount[i] = static_cast<float>(ahead.discount);
        block.next[i] = view_.row(ahead.last);
      }
      block.last_flags[i] = static_cast<std::uint8_t>(block.next[i][view_.flags_offset]);
      if (finds_next_) {
        FrameAddress next;  // kNext is of rows without stacks: one frame
        compact_.find_next_state(view_, block.last[i], &next);
        block.next[i] = next.base;
      }
      if (block.next[i] != block.rows[i]) prefetch(block.next[i], prefetched_);
    }
  }

  void copy(const Block& block, Prefetches& prefetches) const {
    with_size(block, [&](auto size) {
      for (std::uint32_t c = 0; c < target_.num_columns; ++c) {
        prefetches.some();
        copy_column(block, target_.columns[c], size);
      }
      prefetches.some();
      emit(block, size);
    });
  }

  template <typename Size>
  void copy_column(const Block& block, const Column& column, Size size) const {
    if (column.source >= Source::kFrames) {
      copy_frames(block, column);
      return;
    }
    const bool next = follows_ && column.source == Source::kNext;
    const std::byte* const* rows = next ? block.next : block.rows;
    std::byte* out = column.out + (offset_ + block.first) * column.nbytes;
    const std::size_t nbytes = column.nbytes;
    const std::size_t offset = column.row_offset;
    copy_field(
        size, nbytes, [out, nbytes](std::size_t i) { return out + i * nbytes; },
        [rows, offset](std::size_t i) { return rows[i] + offset; });
  }

  template <typename Size>
  void emit(const Block& block, Size size) const {
    const std::size_t first = offset_ + block.first;
    std::uint8_t flags[kBlock];
    for (std::size_t i = 0; i < size; ++i) {
      flags[i] = static_cast<std::uint8_t>(block.rows[i][view_.flags_offset]);
    }
    if (follows_) {
      emit_flags(target_, first, size, flags, block.last_flags,
                 [&](std::size_t i) { return block.discount[i]; });
    } else {
      const auto one_step = static_cast<float>(target_.gamma);
      emit_flags(target_, first, size, flags, flags, [&](std::size_t) { return one_step; });
    }
    if (float* const steps = looks_ahead_ ? target_.floats(BatchPart::kSteps) : nullptr) {
      std::transform(block.ids, block.ids + size, block.last, steps + first, count_steps);
    }
    std::int64_t* const indices = target_.indices();
    if (indices == nullptr) return;
    for (std::size_t i = 0; i < size; ++i) {
      indices[first + i] = static_cast<std::int64_t>(block.ids[i].packed());
    }
  }

  void copy_frames(const Block& block, const Column& column) const {
    FrameAddress frames[ObservationStorage::kMaxFrameStack];
    const std::size_t nbytes = column.nbytes / column.frames;
    for (std::size_t i = 0; i < block.count; ++i) {
      std::byte* out = column.out + (offset_ + block.first + i) * column.nbytes;
      const std::size_t newest = compact_.frame_stack - 1;
      if (column.source == Source::kFrames) {
        compact_.find_state(view_, block.ids[i], frames);
      } else {
        compact_.find_next_state(view_, block.last[i], frames);
      }
      if (column.frames == 1) {  // not a stack: all of it goes with the newest frame
        std::memcpy(out, frames[newest].of(column.row_offset, column.block_offset, 0), nbytes);
        continue;
      }
      copy_field(
          newest + 1, nbytes, [&](std::size_t f) { return out + f * nbytes; },
          [&](std::size_t f) {
            return frames[f].of(column.row_offset, column.block_offset, nbytes);
          });
    }
  }

  const RowsView& view_;
  CompactView compact_;  // of no frames where rows are whole
  const BatchTarget& target_;
  std::size_t offset_;  // of the first row in the batch
  bool looks_ahead_;
  bool finds_next_;           // in compact rows
  bool follows_;              // does either
  std::uint64_t prefetched_;  // bytes of a row
  std::size_t prefetches_at_once_;
  Block blocks_[kStages];
};

/// Rows whose names are there already.
class KnownRows final : public RowStream {
 public:
  explicit KnownRows(std::span<const RowId> ids) : ids_(ids) {}
  void next(std::span<RowId> out) override {
    std::copy_n(ids_.begin(), out.size(), out.begin());
    ids_ = ids_.subspan(out.size());
  }

 private:
  std::span<const RowId> ids_;
};

/// Writes what emit_step() does, for steps that lie one after the other.
void emit_run(const RowsView& view, const std::byte* rows, RowId id, std::size_t count,
              const BatchTarget& target, std::size_t first) {
  constexpr std::size_t kPart = 128;
  std::uint8_t flags[kPart];
  const auto one_step = static_cast<float>(target.gamma);
  for (std::size_t done = 0; done < count; done += kPart) {
    const std::size_t size = std::min(kPart, count - done);
    for (std::size_t i = 0; i < size; ++i) {
      flags[i] = static_cast<std::uint8_t>(rows[(done + i) * view.pitch + view.flags_offset]);
    }
    emit_flags(target, first + done, size, flags, flags, [&](std::size_t) { return one_step; });
    std::int64_t* const indices = target.indices();
    if (indices == nullptr) continue;
    std::iota(indices + first + done, indices + first + done + size,
              static_cast<std::int64_t>(id.packed() + done));
  }
}

/// Copies rows that lie one after the other, to rows of the batch from `first` on.
void copy_run(const RowsView& view, const std::byte* rows, RowId id, std::size_t count,
              const BatchTarget& target, std::size_t first) {
  for (std::uint32_t c = 0; c < target.num_columns; ++c) {
    const Column& column = target.columns[c];
    std::byte* out = column.out + first * column.nbytes;
    const std::byte* in = rows + column.row_offset;
    const std::size_t nbytes = column.nbytes;
    const std::size_t pitch = view.pitch;
    copy_field(
        count, nbytes, [out, nbytes](std::size_t i) { return out + i * nbytes; },
        [in, pitch](std::size_t i) { return in + i * pitch; });
  }
  emit_run(view, rows, id, count, target, first);
}

}  // namespace

void gather(const RowsView& view, const CompactRows* compact, RowStream& rows, std::size_t count,
            const BatchTarget& target, std::size_t first) {
  Gatherer(view, compact, target, first).run(rows, count);
}

void gather(const RowsView& view, const CompactRows* compact, std::span<const RowId> ids,
            const BatchTarget& target, std::size_t first) {
  KnownRows rows(ids);
  gather(view, compact, rows, ids.size(), target, first);
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
  if (target.rewards != nullptr) std::fill_n(target.rewards + first, count, 0.0f);
  for (std::size_t p = 0; p < kNumBatchParts; ++p) {
    const auto part = static_cast<BatchPart>(p);
    if (target.parts[p] == nullptr) continue;
    if (is_float(part)) {
      std::fill_n(target.floats(part) + first, count, 0.0f);
    } else {
      std::fill_n(reinterpret_cast<std::int64_t*>(target.parts[p]) + first, count, -1);
    }
  }
}

}  // namespace velora
