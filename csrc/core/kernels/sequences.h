#pragma once

#include <cstddef>
#include <cstdint>

#include "core/batch/sequence_span.h"
#include "core/kernels/gather.h"
#include "core/kernels/launch.h"
#include "core/kernels/select.h"
#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// Sequences, which begin to train on selected rows. Of more than there are, a draw is all padding.
struct SequenceParams {
  LaunchRows rows;
  SelectParams select;  // of the starts
  DeviceBatch steps;    // `burn_in + length` of each sequence
  DeviceBatch firsts;   // the first step of each; of no words where nothing comes once a sequence
  std::uint32_t length;
  std::uint32_t burn_in;
  bool crosses;  // the ends of episodes
  SequenceSpan* spans;

  VELORA_HD std::uint32_t num_steps() const { return burn_in + length; }
  VELORA_HD std::uint64_t num_rows() const { return select.count * num_steps(); }
};
static_assert(sizeof(SequenceParams) <= kMaxLaunchBytes);

namespace device {

/// As much of the sequence of `start` as the lane has, and nothing of no row.
VELORA_HD inline SequenceSpan begin_span(const SequenceParams& params, RowId start) {
  if (start.lane == RowId::kNoLane) return {.start = start, .burn_in = 0, .length = 0};
  return longest_span(params.rows.view, start, params.burn_in, params.length);
}

/// Cuts the span of a sequence where its step number `step` ends an episode, while others do where
/// theirs do.
VELORA_NO_EXEC_CHECK
template <typename Atomics>
VELORA_HD inline void cut_at(const SequenceParams& params, SequenceSpan& span, std::uint32_t step) {
  const RowsView& view = params.rows.view;
  const RowId start = span.start;
  if (start.lane == RowId::kNoLane || start.serial + step < params.burn_in) return;
  const std::uint64_t serial = start.serial + step - params.burn_in;
  if (serial < view.begin(start.lane) || serial >= view.end(start.lane)) return;
  cut_span(view, span, serial, serial + 1,
           [](std::uint64_t& word, std::uint64_t most) { Atomics::fetch_min(&word, most); });
}

/// One thread's part of step `step` of sequence `i`, whose steps begin at time 0.
VELORA_HD inline void gather_step(const SequenceParams& params, const SequenceSpan& span,
                                  std::uint64_t i, std::uint32_t step, TeamMember member) {
  const bool is_there = step < span.burn_in + span.length;
  const RowId id = {is_there ? span.start.lane : RowId::kNoLane,
                    span.start.serial - span.burn_in + step};
  const std::uint64_t row = i * params.num_steps() + step;
  gather_row(params.rows, params.steps, id, row, member);
  if (member.rank != 0) return;
  params.steps.target.floats(BatchPart::kMask)[row] =
      is_there && step >= span.burn_in ? 1.0f : 0.0f;
}

/// Made by all threads of the launch together: they wait for each other between its stages.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void make_sequences(const Group& group, const SequenceParams& params) {
  using Atomics = typename Group::LaunchAtomics;
  const std::uint64_t count = params.select.count;
  const std::uint32_t num_steps = params.num_steps();
  const Selection selection = select(group, params.rows, params.select, params.select.space);
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t i = rank; i < count; i += size) {
      params.spans[i] = begin_span(params, selection(i));
    }
  });
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    if (params.crosses) return;
    for (std::uint64_t i = rank; i < params.num_rows(); i += size) {
      cut_at<Atomics>(params, params.spans[i / num_steps],
                      static_cast<std::uint32_t>(i % num_steps));
    }
  });
  group.spread([&](std::uint32_t rank, std::uint32_t size) {
    each_item(params.num_rows(), params.steps.columns.words, rank, size,
              [&](std::uint64_t item, TeamMember member) {
                const std::uint64_t i = item / num_steps;
                gather_step(params, params.spans[i], i,
                            static_cast<std::uint32_t>(item % num_steps), member);
              });
    if (params.firsts.columns.words == 0) return;
    each_item(count, params.firsts.columns.words, rank, size,
              [&](std::uint64_t i, TeamMember member) {
                const SequenceSpan& span = params.spans[i];
                const RowId first = {span.start.lane, span.start.serial - span.burn_in};
                gather_row(params.rows, params.firsts, first, i, member);
              });
  });
}

}  // namespace device
}  // namespace velora
