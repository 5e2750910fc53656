#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>

#include "core/random/distinct_draw.h"
#include "core/rows/rows_view.h"

namespace velora {

/// A draw of numbers without replacement as a draw of the rows that have these numbers.
class DistinctRows {
 public:
  /// `scratch` outlives this and serves one draw at a time.
  explicit DistinctRows(DrawScratch& scratch) : scratch_(scratch) {}

  /// Throws as DistinctDraw does.
  void begin(DrawKey key, std::uint64_t bound, std::size_t count) {
    draw_.emplace(key, bound, count, scratch_);
  }
  /// `locate(number)` is the row of that number. Throws std::logic_error before begin().
  template <typename Locate>
  void next(std::span<RowId> out, const Locate& locate) {
    constexpr std::size_t kMost = 64;
    if (!draw_) throw std::logic_error("rows of a draw that was not begun");
    std::uint64_t drawn[kMost];
    while (!out.empty()) {
      const std::size_t count = std::min(kMost, out.size());
      draw_->next({drawn, count});
      for (std::size_t i = 0; i < count; ++i) out[i] = locate(drawn[i]);
      out = out.subspan(count);
    }
  }

 private:
  DrawScratch& scratch_;
  std::optional<DistinctDraw> draw_;
};

}  // namespace velora
