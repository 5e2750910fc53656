#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/lanes.h"
#include "core/macros.h"

namespace velora {

/// One field of a batch: `nbytes` from `row_offset` of each row, packed one after the other.
struct Column {
  std::uint64_t row_offset;
  std::uint64_t nbytes;
  std::byte* out;
};

/// Where the parts of a batch go. Null pointers are parts that nobody asked for.
struct BatchTarget {
  const Column* columns;
  std::uint32_t num_columns;
  float gamma;
  float* dones;           // (B, 1): 1 where the step ended its episode for good
  float* truncations;     // (B, 1): 1 where the step was cut off
  float* discounts;       // (B, 1): what multiplies the value of the next state
  std::int64_t* indices;  // (B,): packed RowIds
};

/// Writes what one row says about time into place `i` of the batch.
VELORA_HD inline void emit_step(const BatchTarget& target, std::uint64_t i, RowId id,
                                std::uint8_t flags) {
  const bool done = (flags & kDone) != 0;
  if (target.dones != nullptr) target.dones[i] = done ? 1.0f : 0.0f;
  if (target.truncations != nullptr) {
    target.truncations[i] = (flags & kTruncated) != 0 ? 1.0f : 0.0f;
  }
  if (target.discounts != nullptr) target.discounts[i] = done ? 0.0f : target.gamma;
  if (target.indices != nullptr) target.indices[i] = static_cast<std::int64_t>(id.packed());
}

/// Copies the live rows `ids` into a batch, in that order. Reads rows ahead of their use, so that
/// a batch costs about one memory latency and not one for each row.
void gather(const RowsView& view, std::span<const RowId> ids, const BatchTarget& target);

}  // namespace velora
