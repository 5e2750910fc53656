#include "core/samplers/window_index.h"

#include <algorithm>

namespace velora {

const Windows& WindowIndex::find(const RowsView& view, std::uint64_t length, bool crosses) {
  const auto known = std::find_if(kinds_.begin(), kinds_.end(), [&](const Windows& windows) {
    return windows.length() == length && windows.crosses() == crosses;
  });
  if (known != kinds_.end()) {
    std::rotate(known, known + 1, kinds_.end());
  } else {
    kinds_.emplace_back(view, length, crosses);
    if (kinds_.size() > kMostKinds) kinds_.erase(kinds_.begin());
  }
  return kinds_.back();
}

}  // namespace velora
