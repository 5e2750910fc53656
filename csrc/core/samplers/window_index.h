#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/rows/rows_view.h"
#include "core/samplers/windows.h"

namespace velora {

/// The kinds of windows that were asked for last, each kept up to date from then on.
/// Not synchronised.
class WindowIndex {
 public:
  /// A kind that is not kept looks through all rows of `view` once.
  const Windows& find(const RowsView& view, std::uint64_t length, bool crosses);
  bool empty() const { return kinds_.empty(); }
  /// As Windows::update.
  void update(const RowsView& view, std::uint32_t lane, std::uint64_t episode) {
    for (Windows& windows : kinds_) windows.update(view, lane, episode);
  }
  /// All rows have gone.
  void clear() {
    for (Windows& windows : kinds_) windows.clear();
  }
  /// Keeps none: other rows are there than were told of.
  void forget() { kinds_.clear(); }

 private:
  static constexpr std::size_t kMostKinds = 4;

  std::vector<Windows> kinds_;  // the one asked for last stands last
};

}  // namespace velora
