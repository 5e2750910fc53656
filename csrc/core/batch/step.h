#pragma once

#include <cstdint>
#include <cstring>

#include "core/batch/target.h"
#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// The sum of n steps from a row on.
struct Lookahead {
  RowId last;       // the last of these steps, whose next state is the one to bootstrap from
  double reward;    // sum of gamma**i * reward over the steps
  double discount;  // gamma**k for k steps
};

/// The steps of a row that goes as far as `last`.
VELORA_HD inline float count_steps(RowId id, RowId last) {
  return static_cast<float>(last.serial - id.serial + 1);
}

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

/// Writes the parts of row `i` of a batch: of the steps from row `id` on to `ahead.last`, which
/// begin with the flags `flags` and end with the flags `last_flags`.
VELORA_HD inline void emit_step(const BatchTarget& target, std::uint64_t i, RowId id,
                                std::uint8_t flags, std::uint8_t last_flags,
                                const Lookahead& ahead) {
  const auto emit = [&](BatchPart part, float value) {
    if (float* memory = target.floats(part)) memory[i] = value;
  };
  const bool done = (last_flags & kDone) != 0;
  emit(BatchPart::kDones, done ? 1.0f : 0.0f);
  emit(BatchPart::kTruncations, (last_flags & kTruncated) != 0 ? 1.0f : 0.0f);
  emit(BatchPart::kDiscounts, done ? 0.0f : static_cast<float>(ahead.discount));
  emit(BatchPart::kSteps, count_steps(id, ahead.last));
  emit(BatchPart::kIsFirst, (flags & kFirst) != 0 ? 1.0f : 0.0f);
  if (std::int64_t* indices = target.indices()) indices[i] = static_cast<std::int64_t>(id.packed());
}

/// Writes padding into the parts of row `i` of a batch.
VELORA_HD inline void emit_padding(const BatchTarget& target, std::uint64_t i) {
  if (target.rewards != nullptr) target.rewards[i] = 0.0f;
  for (std::size_t p = 0; p < kNumBatchParts; ++p) {
    const auto part = static_cast<BatchPart>(p);
    if (target.parts[p] == nullptr) continue;
    if (is_float(part)) {
      target.floats(part)[i] = 0.0f;
    } else {
      reinterpret_cast<std::int64_t*>(target.parts[p])[i] = -1;
    }
  }
}

}  // namespace velora
