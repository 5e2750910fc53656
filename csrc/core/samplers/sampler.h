#pragma once

#include <span>

#include "core/rows/rows_view.h"

namespace velora {

/// Names the rows of a batch, some at a time and in their order.
class RowStream {
 public:
  /// The next out.size() rows, which must be alive.
  virtual void next(std::span<RowId> out) = 0;

 protected:
  ~RowStream() = default;
};

}  // namespace velora
