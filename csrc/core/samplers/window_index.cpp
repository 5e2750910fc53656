#include "core/samplers/window_index.h"

#include <algorithm>

namespace velora {

Windows& WindowIndex::find(const RowsView& view, std::uint64_t length, bool crosses) {
  const auto known = std::find_if(kinds_.begin(), kinds_.end(), [&](const auto& windows) {
    return windows->length() == length && windows->crosses() == crosses;
  });
  if (known != kinds_.end()) {
    std::rotate(known, known + 1, kinds_.end());
  } else {
    kinds_.push_back(std::make_unique<Windows>(view, length, crosses, scratch_));
    if (kinds_.size() > kMostKinds) kinds_.erase(kinds_.begin());
  }
  kinds_.back()->catch_up(view);
  return *kinds_.back();
}

}  // namespace velora
