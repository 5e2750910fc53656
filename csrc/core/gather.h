#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "core/macros.h"
#include "core/row_layout.h"
#include "core/rows_view.h"

namespace velora {

class CompactRows;

/// Where a batch finds a field: in the row that was drawn, or where that step leads to. Fields of
/// compact rows may have to be put together from frames.
enum class Source : std::uint8_t { kRow, kNext, kFrames, kNextFrames };

/// One field of a batch: `nbytes` for each row, packed one after the other.
struct Column {
  std::uint64_t row_offset;
  std::uint64_t nbytes;
  std::byte* out;
  Source source = Source::kRow;
  std::uint32_t frames = 1;        // of kFrames and kNextFrames
  std::uint64_t block_offset = 0;  // of kFrames and kNextFrames
};

/// The column that a field of a layout is in a batch.
inline Column column_of(const Field& field, const RowLayout& layout, std::byte* out) {
  const bool next = field.role == Role::kNextState;
  Source source = next ? Source::kNext : Source::kRow;
  if (layout.frame_stack() > 1 && (next || field.frames > 1)) {
    source = next ? Source::kNextFrames : Source::kFrames;
  }
  return {.row_offset = field.offset,
          .nbytes = field.nbytes,
          .out = out,
          .source = source,
          .frames = field.frames,
          .block_offset = field.block_offset};
}

/// Where the parts of a batch go. Null pointers are parts that nobody asked for.
struct BatchTarget {
  const Column* columns;
  std::uint32_t num_columns;
  /// How many steps a row sums up, at most: those that its episode has from there on.
  std::uint32_t n_step = 1;
  double gamma;
  std::uint64_t reward_offset;  // of n_step > 1
  float* rewards;               // (B, 1): sums; null: rewards are a column
  float* dones;                 // (B, 1): 1 where the step ended its episode for good
  float* truncations;           // (B, 1): 1 where the step was cut off
  float* discounts;             // (B, 1): what multiplies the value of the next state
  float* is_first;              // (B, 1): 1 where the row is the first of its episode
  std::int64_t* indices;        // (B,): packed RowIds, -1 for padding
};

/// Bytes that one row of a batch takes.
std::size_t row_bytes(const BatchTarget& target);

/// What n steps from a row on come to.
struct Lookahead {
  RowId last;       // the last of these steps, whose next state is the one to bootstrap from
  double reward;    // sum of gamma**i * reward over the steps
  double discount;  // gamma**k for k steps
};

/// Walks from a live row as far as its episode goes on, at most n_step rows.
VELORA_HD inline Lookahead look_ahead(const RowsView& view, RowId id, const BatchTarget& target) {
  Lookahead ahead = {.last = id, .reward = 0.0, .discount = 1.0};
  for (std::uint32_t k = 1;; ++k) {
    float reward = 0.0f;
    std::memcpy(&reward, view.row(ahead.last) + target.reward_offset, sizeof(reward));
    ahead.reward += ahead.discount * static_cast<double>(reward);
    ahead.discount *= target.gamma;
    if (k == target.n_step || !view.continues(ahead.last)) return ahead;
    ++ahead.last.serial;
  }
}

/// Writes what the rows say about time into place `i` of the batch: the step from row `id` on,
/// which begins with the flags `flags` and ends with the flags `last_flags` and a future that is
/// worth `discount`.
VELORA_HD inline void emit_step(const BatchTarget& target, std::uint64_t i, RowId id,
                                std::uint8_t flags, std::uint8_t last_flags, double discount) {
  const bool done = (last_flags & kDone) != 0;
  if (target.dones != nullptr) target.dones[i] = done ? 1.0f : 0.0f;
  if (target.truncations != nullptr) {
    target.truncations[i] = (last_flags & kTruncated) != 0 ? 1.0f : 0.0f;
  }
  if (target.discounts != nullptr) target.discounts[i] = done ? 0.0f : static_cast<float>(discount);
  if (target.is_first != nullptr) target.is_first[i] = (flags & kFirst) != 0 ? 1.0f : 0.0f;
  if (target.indices != nullptr) target.indices[i] = static_cast<std::int64_t>(id.packed());
}

/// Rows that are copied together. Parts of a batch are best made of whole blocks.
inline constexpr std::size_t kGatherBlock = 16;

/// Names the rows of a batch, some at a time and in their order.
class RowStream {
 public:
  /// The next out.size() rows, which must be alive.
  virtual void next(std::span<RowId> out) = 0;

 protected:
  ~RowStream() = default;
};

/// Copies `count` rows into places [first, first + count) of a batch, in their order. `compact` is
/// null where rows are whole. Reads rows ahead of their use, so that a batch costs about one memory
/// latency and not one for each row, and asks for their names while it waits.
void gather(const RowsView& view, const CompactRows* compact, RowStream& rows, std::size_t count,
            const BatchTarget& target, std::size_t first = 0);

/// The same for the live rows `ids`.
void gather(const RowsView& view, const CompactRows* compact, std::span<const RowId> ids,
            const BatchTarget& target, std::size_t first = 0);

/// The same for `count` live rows of one lane, from `id` on, each looking one step ahead: one
/// contiguous read where rows are whole.
void gather_run(const RowsView& view, const CompactRows* compact, RowId id, std::size_t count,
                const BatchTarget& target, std::size_t first);

/// Asks the memory for the rows that gather_run() is going to read.
void prefetch_run(const RowsView& view, RowId id, std::size_t count);

/// Fills `count` places from `first` on with padding: zeros, and -1 for indices.
void pad(const BatchTarget& target, std::size_t first, std::size_t count);

}  // namespace velora
