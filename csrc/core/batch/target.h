#pragma once

#include <cstddef>
#include <cstdint>

#include "core/batch/parts.h"
#include "core/rows/row_layout.h"
#include "core/values/macros.h"

namespace velora {

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

/// Where the tensors of a batch lie. Null pointers are parts that are not asked for.
struct BatchTarget {
  const Column* columns;
  std::uint32_t num_columns;
  /// Steps that a row sums up, at most: those that its episode has from there on.
  std::uint32_t n_step = 1;
  double gamma;
  std::uint64_t reward_offset;       // of n_step > 1
  float* rewards;                    // (B, 1): sums; null: rewards are a column
  std::byte* parts[kNumBatchParts];  // by Part

  void set(BatchPart part, void* memory) {
    parts[index_of(part)] = static_cast<std::byte*>(memory);
  }
  /// The memory of a part of floats, or null.
  VELORA_HD float* floats(BatchPart part) const {
    return reinterpret_cast<float*>(parts[index_of(part)]);
  }
  VELORA_HD std::int64_t* indices() const {
    return reinterpret_cast<std::int64_t*>(parts[index_of(BatchPart::kIndices)]);
  }
};

/// Bytes that one row of a batch takes.
std::size_t row_bytes(const BatchTarget& target);

/// Where a sequence must not go on: past the end of its episode, in which case it is padded; or it
/// may not even begin where it would (kWithin); or only past the newest row (kCross).
enum class SequenceBoundary : std::uint8_t { kPad, kWithin, kCross };

struct SequenceSpec {
  std::uint64_t length;   // steps to train on
  std::uint64_t burn_in;  // steps before them, as far as they are there
  SequenceBoundary boundary;
};

/// Where the tensors of a batch of sequences lie, B of L = burn_in + length steps each.
struct SequenceTarget {
  BatchTarget steps;   // B * L rows, sequence by sequence; its kMask is there
  BatchTarget firsts;  // B rows: the first step of each sequence
};

}  // namespace velora
