#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/dtype.h"
#include "core/number.h"

namespace velora {

/// Of a row, and one more for the batch.
inline constexpr int kMaxRowDims = 8;
inline constexpr int kMaxDims = kMaxRowDims + 1;

/// Somebody else's array, as memory and shape. Strides are in bytes, and arbitrary where the
/// extent is 1.
struct ArrayView {
  const std::byte* data = nullptr;
  DType dtype = DType::kFloat32;
  int ndim = 0;
  std::int64_t shape[kMaxDims] = {};
  std::int64_t strides[kMaxDims] = {};

  std::int64_t num_elements() const;
  /// Row-major without gaps.
  bool is_contiguous() const;
  /// "(3, 84, 84)"
  std::string shape_string() const;
};

/// A shape as Python writes it: "(3, 84, 84)".
std::string shape_text(std::span<const std::int64_t> shape);

/// Copies the elements of `in`, in row-major order, to contiguous memory as dtype `to`, and stops
/// at the first that does not fit. `to` is not kFloat64. `out` then holds rubbish.
Misfit copy_elements(const ArrayView& in, DType to, std::byte* out);

}  // namespace velora
