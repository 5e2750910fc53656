#pragma once

#include <cstdint>
#include <span>

#include "core/host/gather.h"
#include "core/random/distinct_draw.h"
#include "core/samplers/time_order.h"
#include "core/threads/parts.h"

namespace velora {

class Store;

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
