#pragma once

#include <cstdint>
#include <span>

#include "core/draw.h"
#include "core/gather.h"
#include "core/parts.h"
#include "core/store.h"
#include "core/time_order.h"

namespace velora {

/// Where a sequence must not go on: past the end of its episode, in which case it is padded; or it
/// may not even begin where it would (kWithin); or only past the newest row (kCross).
enum class SequenceBoundary : std::uint8_t { kPad, kWithin, kCross };

struct SequenceSpec {
  std::uint64_t length;   // steps to train on
  std::uint64_t burn_in;  // steps before them, as far as they are there
  SequenceBoundary boundary;
};

/// Where the parts of a batch of sequences go, B of L = burn_in + length steps each.
struct SequenceTarget {
  BatchTarget steps;   // B * L rows, sequence by sequence
  float* mask;         // (B, L, 1): 1 for the steps to train on
  BatchTarget firsts;  // B rows: the first step of each sequence
};

/// Draws rows from a Store and gathers them. The memory that it works in is kept between
/// calls, but for that of large batches.
/// Only what a runner, if there is one, does is left to other threads: it reads the store.
/// Not synchronised.
class Sampler {
 public:
  /// Writes `count` distinct rows: those of the lanes' next draw, which the caller counts when it
  /// has the batch. Precondition: there are so many.
  void sample(const Store& store, std::size_t count, const BatchTarget& target,
              const PartRunner* runner = nullptr);
  /// Writes the `count` live rows from position `start` on in time order, each looking one step
  /// ahead.
  void take(const Store& store, std::uint64_t start, std::size_t count, const BatchTarget& target,
            const PartRunner* runner = nullptr);

  /// How many places a sequence can start at.
  static std::uint64_t count_sequences(Store& store, const SequenceSpec& spec);
  /// Writes `count` sequences with distinct starts, as sample() does.
  void sample_sequences(Store& store, const SequenceSpec& spec, std::size_t count,
                        const SequenceTarget& target, const PartRunner* runner = nullptr);

 private:
  void gather_ids(const Store& store, const RowsView& view, const BatchTarget& target,
                  const PartRunner* runner) const;

  /// To allocate takes little beside the work for a larger batch.
  static constexpr std::size_t kMostKept = std::size_t{1} << 16;
  /// Gives back what only a batch of so many rows needs.
  void trim(std::size_t count);

  RowIds ids_;
  DrawScratch scratch_;
};

}  // namespace velora
