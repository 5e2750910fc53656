#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/values/dtype.h"
#include "core/values/number.h"

namespace velora {

/// Of a row, and one more for the batch.
inline constexpr int kMaxRowDims = 8;
inline constexpr int kMaxDims = kMaxRowDims + 1;

/// Non-owning view of an array, as memory and shape. Strides are in bytes, and arbitrary where the
/// extent is 1.
struct ArrayView {
  const std::byte* data = nullptr;
  DType dtype = DType::kFloat32;
  int ndim = 0;
  std::int64_t shape[kMaxDims] = {};
  std::int64_t strides[kMaxDims] = {};

  std::int64_t num_elements() const {
    std::int64_t count = 1;
    for (int d = 0; d < ndim; ++d) count *= shape[d];
    return count;
  }
  /// Row-major without gaps.
  bool is_contiguous() const {
    auto expected = static_cast<std::int64_t>(size_of(dtype));
    for (int d = ndim - 1; d >= 0; --d) {
      if (shape[d] != 1 && strides[d] != expected) return false;
      expected *= shape[d];
    }
    return true;
  }
  /// "(3, 84, 84)"
  std::string shape_string() const;
};

/// A shape as Python writes it: "(3, 84, 84)".
std::string shape_text(std::span<const std::int64_t> shape);

/// Copies the elements of `in`, in row-major order, to contiguous memory as dtype `to`, and stops
/// at the first that does not fit. `to` is not kFloat64. `out` then holds rubbish.
Misfit copy_elements(const ArrayView& in, DType to, std::byte* out);

/// The result that copy_elements() would return.
Misfit check_elements(const ArrayView& in, DType to);

}  // namespace velora
