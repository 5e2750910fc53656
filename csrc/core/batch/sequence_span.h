#pragma once

#include <cstdint>

#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// The steps of one sequence.
struct SequenceSpan {
  RowId start;            // the first step to train on
  std::uint64_t burn_in;  // steps before it
  std::uint64_t length;   // steps from it on
};

/// As much of a sequence as the lane of live row `start` has, whatever its rows say of episodes.
VELORA_HD inline SequenceSpan longest_span(const RowsView& view, RowId start, std::uint64_t burn_in,
                                           std::uint64_t length) {
  const std::uint64_t before = start.serial - view.begin(start.lane);
  const std::uint64_t after = view.end(start.lane) - start.serial;
  return {.start = start,
          .burn_in = before < burn_in ? before : burn_in,
          .length = after < length ? after : length};
}

/// Cuts a span at the ends of episodes among rows [begin, end) of its lane, which are present.
/// `limit(word, most)` lets a word be `most` at most. However the rows of a span are shared out,
/// and in whatever order, the steps that are left are those of the start's episode. O(end - begin).
VELORA_NO_EXEC_CHECK
template <typename Limit>
VELORA_HD inline void cut_span(const RowsView& view, SequenceSpan& span, std::uint64_t begin,
                               std::uint64_t end, const Limit& limit) {
  const RowId start = span.start;
  while (begin < end) {
    const std::uint64_t ended = view.find_end(start.lane, begin, end);
    if (ended == end) return;
    if (ended >= start.serial) return limit(span.length, ended - start.serial + 1);
    limit(span.burn_in, start.serial - ended - 1);
    begin = ended + 1;
  }
}

}  // namespace velora
