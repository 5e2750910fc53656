#include "core/sampler.h"

#include <algorithm>

#include "core/time_order.h"

namespace velora {

std::span<const std::uint64_t> Sampler::draw(const Store& store, std::size_t count,
                                             std::uint64_t bound) {
  drawn_.resize(count);
  draw_distinct(store.lanes().next_draw(), bound, drawn_, scratch_);
  return drawn_;
}

void Sampler::sample(const Store& store, std::size_t count, const BatchTarget& target) {
  const RowsView view = store.view();
  draw(store, count, view.size());
  ids_.resize(count);
  for (std::size_t i = 0; i < count; ++i) ids_[i] = view.locate(drawn_[i]);
  gather(view, store.compact(), store.zero_row(), ids_, target);
}

void Sampler::take(const Store& store, std::uint64_t start, std::size_t count,
                   const BatchTarget& target) {
  const RowsView view = store.view();
  find_in_time_order(view, start, count, ids_);
  gather(view, store.compact(), store.zero_row(), ids_, target);
}

std::uint64_t Sampler::count_sequences(Store& store, const SequenceSpec& spec) {
  if (spec.boundary == SequenceBoundary::kPad) return store.view().size();
  return store.windows(spec.length, spec.boundary == SequenceBoundary::kCross).size();
}

void Sampler::sample_sequences(Store& store, const SequenceSpec& spec, std::size_t count,
                               const SequenceTarget& target) {
  const RowsView view = store.view();
  const bool crosses = spec.boundary == SequenceBoundary::kCross;
  const Windows* windows = spec.boundary == SequenceBoundary::kPad
                               ? nullptr
                               : &store.windows(spec.length, crosses);
  draw(store, count, windows == nullptr ? view.size() : windows->size());
  const std::uint64_t steps = spec.burn_in + spec.length;
  ids_.clear();
  ids_.reserve(count * steps);
  firsts_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    const RowId start = windows == nullptr ? view.locate(drawn_[i]) : windows->locate(view, drawn_[i]);
    add_sequence(view, spec, start, target.mask + i * steps);
    firsts_.push_back(ids_[i * steps]);
  }
  gather(view, store.compact(), store.zero_row(), ids_, target.steps);
  if (target.firsts.num_columns > 0) {
    gather(view, store.compact(), store.zero_row(), firsts_, target.firsts);
  }
}

void Sampler::add_sequence(const RowsView& view, const SequenceSpec& spec, RowId start,
                           float* mask) {
  const bool crosses = spec.boundary == SequenceBoundary::kCross;
  const std::uint64_t oldest = view.begin(start.lane);
  RowId row = start;
  while (start.serial - row.serial < spec.burn_in && row.serial > oldest &&
         (crosses || view.continues({row.lane, row.serial - 1}))) {
    --row.serial;
  }
  const std::uint64_t steps = spec.burn_in + spec.length;
  std::uint64_t step = 0;
  for (const std::uint64_t end = start.serial + spec.length;; ++row.serial) {
    ids_.push_back(row);
    mask[step++] = row.serial >= start.serial ? 1.0f : 0.0f;
    const bool goes_on = crosses ? row.serial + 1 < view.end(row.lane) : view.continues(row);
    if (row.serial + 1 == end || !goes_on) break;
  }
  for (; step < steps; ++step) {
    ids_.push_back({RowId::kNoLane, 0});
    mask[step] = 0.0f;
  }
}

}  // namespace velora
