#pragma once

#include <cstddef>
#include <cstdint>

#include "core/values/dtype.h"
#include "core/values/macros.h"

namespace velora {

/// The parts of a batch besides the fields of its rows, in the order of their tensors. A new one is
/// a line here, a line in kBatchParts, and the code that writes its value.
enum class BatchPart : std::uint8_t {
  kDones,        // 1 where the step terminated its episode
  kTruncations,  // 1 where the step was cut off
  kIndices,      // packed RowIds; -1 for padding
  kDiscounts,    // factor of the next state's value
  kSteps,        // how many steps the row sums up, where that may be several
  kMask,         // 1 for the steps to train on
  kIsFirst,      // 1 where the row is the first of its episode
  kWeights,      // importance weights of the draw
};
inline constexpr std::size_t kNumBatchParts = 8;

VELORA_HD constexpr std::size_t index_of(BatchPart part) { return static_cast<std::size_t>(part); }

/// Which batches have a part.
enum class PartOf : std::uint8_t {
  kAll,         // every batch
  kDiscounted,  // those of buffers with a discount factor
  kSummed,      // rows that sum up several steps
  kSequences,   // batches of sequences
  kWeighted,    // draws by a sampler that weighs rows
};

struct PartInfo {
  const char* name;  // of the attribute of a BatchExperience
  PartOf of;
  bool each_step = true;  // in a batch of sequences; otherwise one row for each sequence
};

/// By BatchPart.
inline constexpr PartInfo kBatchParts[kNumBatchParts] = {
    {.name = "dones", .of = PartOf::kAll},
    {.name = "truncations", .of = PartOf::kAll},
    {.name = "indices", .of = PartOf::kAll},
    {.name = "discounts", .of = PartOf::kDiscounted},
    {.name = "steps", .of = PartOf::kSummed},
    {.name = "mask", .of = PartOf::kSequences},
    {.name = "is_first", .of = PartOf::kSequences},
    {.name = "weights", .of = PartOf::kWeighted, .each_step = false},
};

/// Whether a part is a float32 column (B, 1), whose padding is 0. The others are int64 (B,), whose
/// padding is -1.
VELORA_HD constexpr bool is_float(BatchPart part) { return part != BatchPart::kIndices; }

constexpr DType dtype_of(BatchPart part) {
  return is_float(part) ? DType::kFloat32 : DType::kInt64;
}

}  // namespace velora
