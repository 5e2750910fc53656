#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/random/distinct_draw.h"
#include "core/rows/rows_view.h"
#include "core/samplers/windows.h"

namespace velora {

/// The kinds of windows that were asked for last. Not synchronised.
class WindowIndex {
 public:
  /// As in Windows.
  explicit WindowIndex(DrawScratch& scratch) : scratch_(scratch) {}

  /// Those of one kind after Windows::catch_up(view), good until the next call. A kind that is not
  /// kept looks through all rows. Throws std::bad_alloc.
  Windows& find(const RowsView& view, std::uint64_t length, bool crosses);

 private:
  static constexpr std::size_t kMostKinds = 4;

  DrawScratch& scratch_;
  std::vector<std::unique_ptr<Windows>> kinds_;  // the one asked for last stands last
};

}  // namespace velora
