#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/gather.h"
#include "core/kernels/sample.h"
#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// What a launch finds out about one sequence before it copies the steps.
struct SequenceSpan {
  std::uint64_t start;    // packed: the first step to train on
  std::uint32_t burn_in;  // steps before it
  std::uint32_t length;   // steps from it on
};

/// Sequences, which begin at drawn rows or at rows that the host names.
struct SequenceParams {
  GatherParams steps;   // count is that of the sequences times `burn_in + length`
  GatherParams firsts;  // the first step of each; of no words where nothing comes once a sequence
  DrawParams draw;      // of the starts
  const std::uint64_t*
      ids;  // packed starts of this draw, which the host made; null: the device does
  std::uint32_t length;
  std::uint32_t burn_in;
  bool crosses;  // the ends of episodes
  SequenceSpan* spans;

  VELORA_HD std::uint32_t num_steps() const { return burn_in + length; }
};

/// Every driver takes so much with a launch.
static_assert(sizeof(SequenceParams) <= 4096);

namespace device {

/// As much of sequence `i` as the lane has, whatever its rows say.
VELORA_HD inline SequenceSpan longest_span(const SequenceParams& params, const RowsView& view,
                                           RowId start) {
  const std::uint64_t before = start.serial - view.begin(start.lane);
  const std::uint64_t after = view.end(start.lane) - start.serial;
  return {.start = start.packed(),
          .burn_in = before < params.burn_in ? static_cast<std::uint32_t>(before) : params.burn_in,
          .length = after < params.length ? static_cast<std::uint32_t>(after) : params.length};
}

/// Cuts the span of a sequence where its step number `step` ends an episode.
template <typename Atomics>
VELORA_HD inline void cut_span(const SequenceParams& params, const RowsView& view,
                               SequenceSpan& span, std::uint32_t step) {
  const RowId start = RowId::unpack(span.start);
  const std::uint64_t back = params.burn_in;  // of the start within the sequence
  if (start.serial + step < back) return;
  const std::uint64_t serial = start.serial + step - back;
  if (serial < view.begin(start.lane) || serial >= view.end(start.lane)) return;
  if ((view.flags({start.lane, serial}) & kEnds) == 0) return;
  if (step < back) {
    Atomics::fetch_min(&span.burn_in, static_cast<std::uint32_t>(back) - step - 1);
  } else {
    Atomics::fetch_min(&span.length, step - static_cast<std::uint32_t>(back) + 1);
  }
}

/// One thread's part of step `step` of sequence `i`, whose steps begin at time 0.
VELORA_HD inline void gather_step(const SequenceParams& params, const SequenceSpan& span,
                                  std::uint64_t i, std::uint32_t step, TeamMember member) {
  const RowId start = RowId::unpack(span.start);
  const bool is_there = step < span.burn_in + span.length;
  const RowId id = {is_there ? start.lane : RowId::kNoLane, start.serial - span.burn_in + step};
  const std::uint64_t place = i * params.num_steps() + step;
  gather_row(params.steps, id, place, member);
  if (member.rank != 0) return;
  params.steps.target.floats(BatchPart::kMask)[place] =
      is_there && step >= span.burn_in ? 1.0f : 0.0f;
}

/// Made by all threads of the launch together: they wait for each other between its stages.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void sample_sequences(const Group& group, const SequenceParams& params,
                                       const DrawSpace& space) {
  using Atomics = typename Group::LaunchAtomics;
  const RowsView& view = params.steps.view;
  const std::uint32_t count = params.draw.count;
  const std::uint32_t num_steps = params.num_steps();
  const std::uint64_t even = even_size(params.steps);
  bool enough = true;
  if (params.ids != nullptr) {
    count_draw(group, params.draw, space);
  } else {
    enough = draw_next(group, params.draw, view.size(), space);
  }
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint64_t i = rank; i < count; i += size) {
      if (!enough) {
        params.spans[i] = {.start = 0, .burn_in = 0, .length = 0};
        continue;
      }
      const RowId start =
          params.ids != nullptr ? RowId::unpack(params.ids[i]) : view.locate(space.drawn[i], even);
      params.spans[i] = longest_span(params, view, start);
    }
  });
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    if (params.crosses || !enough) return;
    for (std::uint64_t i = rank; i < std::uint64_t{count} * num_steps; i += size) {
      cut_span<Atomics>(params, view, params.spans[i / num_steps],
                        static_cast<std::uint32_t>(i % num_steps));
    }
  });
  group.spread([&](std::uint32_t rank, std::uint32_t size) {
    each_item(std::uint64_t{count} * num_steps, params.steps.columns.words, rank, size,
              [&](std::uint64_t item, TeamMember member) {
                const std::uint64_t i = item / num_steps;
                gather_step(params, params.spans[i], i,
                            static_cast<std::uint32_t>(item % num_steps), member);
              });
    if (params.firsts.columns.words == 0) return;
    each_item(count, params.firsts.columns.words, rank, size,
              [&](std::uint64_t i, TeamMember member) {
                const SequenceSpan& span = params.spans[i];
                const RowId start = RowId::unpack(span.start);
                const bool is_there = span.length > 0;
                gather_row(params.firsts,
                           {is_there ? start.lane : RowId::kNoLane, start.serial - span.burn_in}, i,
                           member);
              });
  });
}

}  // namespace device
}  // namespace velora
