#include "core/host/batch_reader.h"

#include <algorithm>
#include <functional>

#include "core/batch/sequence_span.h"
#include "core/host/store.h"
#include "core/samplers/time_order.h"

namespace velora {
namespace {

// Sequences that are on their way from memory while one is copied.
constexpr std::size_t kAhead = 1;

struct Sequence {
  RowId first;
  std::uint64_t burn_in;  // steps before those to train on
  std::uint64_t size;     // all steps
};

/// The sequence whose first step to train on is `start`, if there is one.
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

/// Writes the sequences that `starts` begin to train on, from number `position` of the batch on.
/// Replaces `starts` by their first steps.
void gather_sequences(const RowsView& view, const CompactRows* compact, const SequenceSpec& spec,
                      std::span<RowId> starts, const SequenceTarget& target, std::size_t position) {
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
    const std::size_t first = (position + i) * steps;
    gather_run(view, compact, sequence.first, sequence.size, target.steps, first);
    pad(target.steps, first + sequence.size, steps - sequence.size);
    float* mask = target.steps.floats(BatchPart::kMask) + first;
    std::fill(mask, mask + steps, 0.0f);
    std::fill(mask + sequence.burn_in, mask + sequence.size, 1.0f);
  }
  if (target.firsts.num_columns > 0) gather(view, compact, starts, target.firsts, position);
}

void write_weights(Sampler& sampler, std::size_t count, const BatchTarget& target) {
  if (float* weights = target.floats(BatchPart::kWeights)) sampler.write_weights({weights, count});
}

}  // namespace

void BatchReader::trim(std::size_t count) {
  if (count <= kMostKept) return;
  RowIds().swap(ids_);
  scratch_ = {};
}

void BatchReader::gather_from(Sampler& sampler, const RowsView& view, std::size_t count,
                              const BatchTarget& target, const PartRunner* runner) {
  if (runner != nullptr && runner->num_threads() > 1) {
    ids_.resize(count);
    sampler.next(ids_);
    const std::span<const RowId> ids = ids_;
    in_parts(
        runner, count, row_bytes(target), kGatherBlock, [&](std::size_t begin, std::size_t end) {
          velora::gather(view, store_.compact(), ids.subspan(begin, end - begin), target, begin);
        });
  } else {
    in_parts(runner, count, row_bytes(target), kGatherBlock, [&](std::size_t, std::size_t) {
      velora::gather(view, store_.compact(), sampler, count, target);
    });
  }
  trim(count);
}

void BatchReader::sample(std::size_t count, const BatchTarget& target, const PartRunner* runner) {
  draw(sampler(), count, target, runner);
}

void BatchReader::sample_replaced(std::size_t count, const BatchTarget& target,
                                  const PartRunner* runner) {
  UniformReplaced sampler;
  draw(sampler, count, target, runner);
}

void BatchReader::draw(Sampler& sampler, std::size_t count, const BatchTarget& target,
                       const PartRunner* runner) {
  const RowsView view = store_.view();
  sampler.catch_up(view);
  sampler.begin(store_.lanes().next_draw(), count);
  gather_from(sampler, view, count, target, runner);
  write_weights(sampler, count, target);
  store_.lanes().count_draw();
}

void BatchReader::gather(const RowNames& names, const BatchTarget& target,
                         const PartRunner* runner) {
  const RowsView view = store_.view();
  const auto named = [&](std::size_t i) {
    return RowId::unpack(static_cast<std::uint64_t>(names.packed[i]));
  };
  ids_.resize(names.count);
  for (std::size_t i = 0; i < names.count; ++i) ids_[i] = named(i);
  const auto alive = [&](RowId id) { return view.alive(id); };
  const auto found = std::find_if(ids_.begin(), ids_.end(), alive);
  if (found == ids_.end()) return pad(target, 0, names.count);
  // In place of a row that is gone another one is copied, and overwritten.
  std::replace_if(ids_.begin(), ids_.end(), std::not_fn(alive), RowId(*found));
  const std::span<const RowId> ids = ids_;
  in_parts(runner, names.count, row_bytes(target), kGatherBlock,
           [&](std::size_t begin, std::size_t end) {
             velora::gather(view, store_.compact(), ids.subspan(begin, end - begin), target, begin);
             for (std::size_t i = begin; i < end; ++i) {
               if (ids[i] != named(i)) pad(target, i, 1);
             }
           });
  trim(names.count);
}

void BatchReader::take(std::uint64_t start, std::size_t count, const BatchTarget& target,
                       const PartRunner* runner) {
  const RowsView view = store_.view();
  if (view.num_lanes == 1) {
    const std::uint64_t first = view.begin(0) + start;
    in_parts(runner, count, row_bytes(target), kGatherBlock,
             [&](std::size_t begin, std::size_t end) {
               gather_run(view, store_.compact(), {0, first + begin}, end - begin, target, begin);
             });
    return;
  }
  TimeOrder order(start);
  order.catch_up(view);
  order.begin(store_.lanes().next_draw(), count);
  gather_from(order, view, count, target, runner);
}

Sampler& BatchReader::starts_of(const SequenceSpec& spec, const RowsView& view) {
  if (spec.boundary != SequenceBoundary::kPad) {
    return windows_.find(view, spec.length, spec.boundary == SequenceBoundary::kCross);
  }
  sampler().catch_up(view);
  return sampler();
}

std::uint64_t BatchReader::count_sequences(const SequenceSpec& spec) {
  const RowsView view = store_.view();
  // A sampler catches up for draws alone: to count its rows changes nothing.
  return spec.boundary == SequenceBoundary::kPad ? view.size() : starts_of(spec, view).size();
}

void BatchReader::sample_sequences(const SequenceSpec& spec, std::size_t count,
                                   const SequenceTarget& target, const PartRunner* runner) {
  const RowsView view = store_.view();
  Sampler& sampler = starts_of(spec, view);
  sampler.begin(store_.lanes().next_draw(), count);
  ids_.resize(count);
  sampler.next(ids_);
  const std::span<RowId> starts = ids_;
  const std::size_t sequence_bytes = (spec.burn_in + spec.length) * row_bytes(target.steps);
  in_parts(runner, count, sequence_bytes, 1, [&](std::size_t begin, std::size_t end) {
    gather_sequences(view, store_.compact(), spec, starts.subspan(begin, end - begin), target,
                     begin);
  });
  write_weights(sampler, count, target.firsts);
  trim(count);
  store_.lanes().count_draw();
}

}  // namespace velora
