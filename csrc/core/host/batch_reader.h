#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "core/host/gather.h"
#include "core/random/distinct_draw.h"
#include "core/samplers/sampler.h"
#include "core/samplers/uniform.h"
#include "core/samplers/window_index.h"
#include "core/threads/parts.h"

namespace velora {

class Store;
struct RowNames;

/// Makes batches of the rows of a Store: a Sampler chooses them, this gathers them. The memory that
/// it works in is kept between calls, but for that of large batches.
/// Only what a runner, if there is one, does is left to other threads: it reads the store.
/// Not synchronised.
class BatchReader {
 public:
  /// `store` outlives this. `sampler` serves no other; null for Uniform.
  explicit BatchReader(Store& store, std::shared_ptr<Sampler> sampler = nullptr)
      : store_(store), uniform_(scratch_), windows_(scratch_), sampler_(std::move(sampler)) {}
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;

  /// Writes `count` rows that the sampler chooses: those of the lanes' next draw, which is counted
  /// once they are there. Throws ValueError where there are fewer.
  void sample(std::size_t count, const BatchTarget& target, const PartRunner* runner = nullptr);
  /// Writes `count` rows of the lanes' next draw as UniformReplaced chooses them.
  void sample_replaced(std::size_t count, const BatchTarget& target,
                       const PartRunner* runner = nullptr);
  /// Writes the rows of these names, and padding for those that are not alive.
  void gather(const RowNames& names, const BatchTarget& target, const PartRunner* runner = nullptr);
  /// Writes the `count` live rows from position `start` on in time order, each looking one step
  /// ahead.
  void take(std::uint64_t start, std::size_t count, const BatchTarget& target,
            const PartRunner* runner = nullptr);

  /// How many rows a sequence can start at.
  std::uint64_t count_sequences(const SequenceSpec& spec);
  /// Writes `count` sequences, as sample() does.
  void sample_sequences(const SequenceSpec& spec, std::size_t count, const SequenceTarget& target,
                        const PartRunner* runner = nullptr);

  /// What chooses the rows of samples.
  const Sampler& sampler() const {
    return sampler_ != nullptr ? static_cast<const Sampler&>(*sampler_) : uniform_;
  }
  Sampler& sampler() { return const_cast<Sampler&>(std::as_const(*this).sampler()); }

 private:
  /// The sampler of sequence starts, after catch_up(view).
  Sampler& starts_of(const SequenceSpec& spec, const RowsView& view);
  /// Writes the rows that `sampler` chooses for the lanes' next draw.
  void draw(Sampler& sampler, std::size_t count, const BatchTarget& target,
            const PartRunner* runner);
  /// Writes the batch that `sampler` has begun.
  void gather_from(Sampler& sampler, const RowsView& view, std::size_t count,
                   const BatchTarget& target, const PartRunner* runner);

  /// To allocate takes little beside the work for a larger batch.
  static constexpr std::size_t kMostKept = std::size_t{1} << 16;
  /// Frees memory that only a batch of `count` rows or more needs.
  void trim(std::size_t count);

  Store& store_;
  DrawScratch scratch_;
  Uniform uniform_;
  WindowIndex windows_;
  std::shared_ptr<Sampler> sampler_;
  RowIds ids_;
};

}  // namespace velora
