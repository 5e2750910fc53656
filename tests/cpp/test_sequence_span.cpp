#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "core/batch/sequence_span.h"
#include "core/rows/rows_view.h"
#include "lanes_of.h"

namespace velora {
namespace {

using testing::LanesOf;

void limit(std::uint64_t& word, std::uint64_t most) { word = std::min(word, most); }

/// Step by step, by the boundary alone.
SequenceSpan walk(const RowsView& view, RowId start, std::uint64_t burn_in, std::uint64_t length) {
  SequenceSpan span = {.start = start, .burn_in = 0, .length = 1};
  RowId last = start;
  while (span.length < length && view.continues(last)) {
    ++span.length;
    ++last.serial;
  }
  while (span.burn_in < burn_in && start.serial - span.burn_in > view.begin(start.lane) &&
         view.continues({start.lane, start.serial - span.burn_in - 1})) {
    ++span.burn_in;
  }
  return span;
}

TEST(SequenceSpan, HasTheStepsOfTheEpisodeHoweverItsRowsAreSharedOut) {
  for (const std::uint64_t spare : {0u, 3u}) {
    std::mt19937_64 random(spare);
    LanesOf of(9, 2, spare);
    for (int i = 0; i < 60; ++i) {
      of.push(static_cast<std::uint32_t>(random() % 2), random() % 4 == 0 ? kDone : 0);
      const RowsView view = of.view();
      for (const std::uint32_t lane : {0u, 1u}) {
        for (RowId start = {lane, view.begin(lane)}; start.serial < view.end(lane);
             ++start.serial) {
          const std::uint64_t burn_in = random() % 6;
          const std::uint64_t length = 1 + random() % 6;
          const SequenceSpan expected = walk(view, start, burn_in, length);
          const SequenceSpan longest = longest_span(view, start, burn_in, length);
          const std::uint64_t first = start.serial - longest.burn_in;
          SequenceSpan at_once = longest;
          cut_span(view, at_once, first, start.serial + longest.length, limit);
          EXPECT_EQ(at_once.burn_in, expected.burn_in);
          EXPECT_EQ(at_once.length, expected.length);
          std::vector<std::uint64_t> rows(longest.burn_in + longest.length);
          std::iota(rows.begin(), rows.end(), first);
          std::shuffle(rows.begin(), rows.end(), random);
          SequenceSpan one_by_one = longest;
          for (const std::uint64_t row : rows) cut_span(view, one_by_one, row, row + 1, limit);
          EXPECT_EQ(one_by_one.burn_in, expected.burn_in);
          EXPECT_EQ(one_by_one.length, expected.length);
        }
      }
    }
  }
}

TEST(SequenceSpan, LongestIsWhatTheLaneHasWhateverItsRowsSay) {
  LanesOf of(4, 1);
  for (int i = 0; i < 6; ++i) of.push(0, kDone);
  const SequenceSpan span = longest_span(of.view(), {0, 4}, 3, 7);
  EXPECT_EQ(span.start, (RowId{0, 4}));
  EXPECT_EQ(span.burn_in, 2u);
  EXPECT_EQ(span.length, 2u);
}

}  // namespace
}  // namespace velora
