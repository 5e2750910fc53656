#include "core/host/batch_reader.h"

#include <algorithm>

#include "core/batch/sequence_span.h"

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
  SequenceSpan span = longest_span(view, start, spec.burn_in, spec.length);
  if (spec.boundary != SequenceBoundary::kCross) {
    // Starts of kWithin are drawn where all steps from them on are of one episode.
    const bool is_whole = spec.boundary == SequenceBoundary::kWithin;
    cut_span(view, span, start.serial - span.burn_in, start.serial + (is_whole ? 0 : span.length),
             [](std::uint64_t& word, std::uint64_t most) { word = std::min(word, most); });
  }
  return {.first = {start.lane, start.serial - span.burn_in},
          .burn_in = span.burn_in,
          .size = span.burn_in + span.length};
}

/// The next rows of a draw; `locate` tells that of a value.
template <typename Locate>
void draw_rows(DistinctDraw& draw, std::span<RowId> out, const Locate& locate) {
  constexpr std::size_t kMost = 64;
  std::uint64_t drawn[kMost];
  while (!out.empty()) {
    const std::size_t count = std::min(kMost, out.size());
    draw.next({drawn, count});
    for (std::size_t i = 0; i < count; ++i) out[i] = locate(drawn[i]);
    out = out.subspan(count);
  }
}

/// The rows of a draw of positions.
class DrawnRows final : public RowStream {
 public:
  DrawnRows(const RowsView& view, DistinctDraw draw) : view_(view), draw_(draw) {}
  void next(std::span<RowId> out) override {
    draw_rows(draw_, out, [this](std::uint64_t position) { return view_.locate(position); });
  }

 private:
  const RowsView& view_;
  DistinctDraw draw_;
};

/// Writes the sequences that `starts` begin to train on, from number `place` of the batch on. Puts
/// their first steps in place of `starts`.
void gather_sequences(const RowsView& view, const CompactRows* compact, const SequenceSpec& spec,
                      std::span<RowId> starts, const SequenceTarget& target, std::size_t place) {
  const std::uint64_t steps = spec.burn_in + spec.length;
  const auto prefetch = [&](std::size_t i) {
    if (i >= starts.size()) return;
    const std::uint64_t rows = std::min(spec.length, view.end(starts[i].lane) - starts[i].serial);
    prefetch_run(view, starts[i], rows);
  };
  for (std::size_t i = 0; i < kAhead; ++i) prefetch(i);
  for (std::size_t i = 0; i < starts.size(); ++i) {
    prefetch(i + kAhead);
    const Sequence sequence = find_sequence(view, spec, starts[i]);
    starts[i] = sequence.first;
    const std::size_t first = (place + i) * steps;
    gather_run(view, compact, sequence.first, sequence.size, target.steps, first);
    pad(target.steps, first + sequence.size, steps - sequence.size);
    float* mask = target.mask + first;
    std::fill(mask, mask + steps, 0.0f);
    std::fill(mask + sequence.burn_in, mask + sequence.size, 1.0f);
  }
  if (target.firsts.num_columns > 0) gather(view, compact, starts, target.firsts, place);
}

}  // namespace

void Sampler::trim(std::size_t count) {
  if (count <= kMostKept) return;
  RowIds().swap(ids_);
  scratch_ = {};
}

void Sampler::gather_ids(const Store& store, const RowsView& view, const BatchTarget& target,
                         const PartRunner* runner) const {
  const std::span<const RowId> ids = ids_;
  in_parts(runner, ids.size(), row_bytes(target), kGatherBlock,
           [&](std::size_t begin, std::size_t end) {
             gather(view, store.compact(), ids.subspan(begin, end - begin), target, begin);
           });
}

void Sampler::sample(const Store& store, std::size_t count, const BatchTarget& target,
                     const PartRunner* runner) {
  const RowsView view = store.view();
  DrawnRows rows(view, {store.lanes().next_draw(), view.size(), count, scratch_});
  if (runner != nullptr && runner->num_threads() > 1) {
    ids_.resize(count);
    rows.next(ids_);
    gather_ids(store, view, target, runner);
  } else {
    in_parts(runner, count, row_bytes(target), kGatherBlock,
             [&](std::size_t, std::size_t) { gather(view, store.compact(), rows, count, target); });
  }
  trim(count);
}

void Sampler::take(const Store& store, std::uint64_t start, std::size_t count,
                   const BatchTarget& target, const PartRunner* runner) {
  const RowsView view = store.view();
  if (view.num_lanes == 1) {
    const std::uint64_t first = view.begin(0) + start;
    in_parts(runner, count, row_bytes(target), kGatherBlock,
             [&](std::size_t begin, std::size_t end) {
               gather_run(view, store.compact(), {0, first + begin}, end - begin, target, begin);
             });
    return;
  }
  find_in_time_order(view, start, count, ids_);
  gather_ids(store, view, target, runner);
  trim(count);
}

std::uint64_t Sampler::count_sequences(Store& store, const SequenceSpec& spec) {
  if (spec.boundary == SequenceBoundary::kPad) return store.view().size();
  return store.windows(spec.length, spec.boundary == SequenceBoundary::kCross).size();
}

void Sampler::sample_sequences(Store& store, const SequenceSpec& spec, std::size_t count,
                               const SequenceTarget& target, const PartRunner* runner) {
  const RowsView view = store.view();
  const bool crosses = spec.boundary == SequenceBoundary::kCross;
  const Windows* windows =
      spec.boundary == SequenceBoundary::kPad ? nullptr : &store.windows(spec.length, crosses);
  const std::uint64_t num_starts = windows == nullptr ? view.size() : windows->size();
  DistinctDraw draw(store.lanes().next_draw(), num_starts, count, scratch_);
  ids_.resize(count);
  draw_rows(draw, ids_, [&](std::uint64_t number) {
    return windows == nullptr ? view.locate(number) : windows->locate(view, number);
  });
  const std::span<RowId> starts = ids_;
  const std::size_t sequence_bytes = (spec.burn_in + spec.length) * row_bytes(target.steps);
  in_parts(runner, count, sequence_bytes, 1, [&](std::size_t begin, std::size_t end) {
    gather_sequences(view, store.compact(), spec, starts.subspan(begin, end - begin), target,
                     begin);
  });
  trim(count);
}

}  // namespace velora
