#include "core/sampler.h"

#include <algorithm>

#include "core/time_order.h"

namespace velora {
namespace {

// Sequences that are on their way from memory while one is copied.
constexpr std::size_t kAhead = 1;

struct Sequence {
  RowId first;
  std::uint64_t burn_in;  // steps before those to train on
  std::uint64_t size;     // all steps
};

/// The sequence whose first step to train on is `start`, as far as there is one.
Sequence find_sequence(const RowsView& view, const SequenceSpec& spec, RowId start) {
  const bool crosses = spec.boundary == SequenceBoundary::kCross;
  const std::uint64_t oldest = view.begin(start.lane);
  RowId first = start;
  while (start.serial - first.serial < spec.burn_in && first.serial > oldest &&
         (crosses || view.continues({first.lane, first.serial - 1}))) {
    --first.serial;
  }
  // Other boundaries draw only starts that have so many.
  const std::uint64_t length =
      spec.boundary == SequenceBoundary::kPad ? view.count_steps(start, spec.length) : spec.length;
  const std::uint64_t burn_in = start.serial - first.serial;
  return {.first = first, .burn_in = burn_in, .size = burn_in + length};
}

/// The rows of a draw.
class DrawnRows final : public RowStream {
 public:
  DrawnRows(const RowsView& view, DistinctDraw draw) : view_(view), draw_(draw) {}
  void next(std::span<RowId> out) override {
    std::uint64_t positions[kMost];
    while (!out.empty()) {
      const std::size_t count = std::min(kMost, out.size());
      draw_.next({positions, count});
      for (std::size_t i = 0; i < count; ++i) out[i] = view_.locate(positions[i]);
      out = out.subspan(count);
    }
  }

 private:
  static constexpr std::size_t kMost = 64;

  const RowsView& view_;
  DistinctDraw draw_;
};

}  // namespace

std::span<const std::uint64_t> Sampler::draw(const Store& store, std::size_t count,
                                             std::uint64_t bound) {
  drawn_.resize(count);
  draw_distinct(store.lanes().next_draw(), bound, drawn_, scratch_);
  return drawn_;
}

void Sampler::sample(const Store& store, std::size_t count, const BatchTarget& target) {
  const RowsView view = store.view();
  DrawnRows rows(view, {store.lanes().next_draw(), view.size(), count, scratch_});
  gather(view, store.compact(), rows, count, target);
}

void Sampler::take(const Store& store, std::uint64_t start, std::size_t count,
                   const BatchTarget& target) {
  const RowsView view = store.view();
  if (view.num_lanes == 1) {
    gather_run(view, store.compact(), {0, view.begin(0) + start}, count, target, 0);
    return;
  }
  find_in_time_order(view, start, count, ids_);
  gather(view, store.compact(), ids_, target);
}

std::uint64_t Sampler::count_sequences(Store& store, const SequenceSpec& spec) {
  if (spec.boundary == SequenceBoundary::kPad) return store.view().size();
  return store.windows(spec.length, spec.boundary == SequenceBoundary::kCross).size();
}

void Sampler::sample_sequences(Store& store, const SequenceSpec& spec, std::size_t count,
                               const SequenceTarget& target) {
  const RowsView view = store.view();
  const bool crosses = spec.boundary == SequenceBoundary::kCross;
  const Windows* windows =
      spec.boundary == SequenceBoundary::kPad ? nullptr : &store.windows(spec.length, crosses);
  draw(store, count, windows == nullptr ? view.size() : windows->size());
  const std::uint64_t steps = spec.burn_in + spec.length;
  ids_.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    ids_[i] = windows == nullptr ? view.locate(drawn_[i]) : windows->locate(view, drawn_[i]);
  }
  const auto prefetch = [&](std::size_t i) {
    if (i >= count) return;
    const std::uint64_t rows = std::min(spec.length, view.end(ids_[i].lane) - ids_[i].serial);
    prefetch_run(view, ids_[i], rows);
  };
  for (std::size_t i = 0; i < kAhead; ++i) prefetch(i);
  for (std::size_t i = 0; i < count; ++i) {
    prefetch(i + kAhead);
    const Sequence sequence = find_sequence(view, spec, ids_[i]);
    ids_[i] = sequence.first;
    const std::size_t place = i * steps;
    gather_run(view, store.compact(), sequence.first, sequence.size, target.steps, place);
    pad(target.steps, place + sequence.size, steps - sequence.size);
    float* mask = target.mask + place;
    std::fill(mask, mask + steps, 0.0f);
    std::fill(mask + sequence.burn_in, mask + sequence.size, 1.0f);
  }
  if (target.firsts.num_columns > 0) gather(view, store.compact(), ids_, target.firsts);
}

}  // namespace velora
