#include "core/values/array_view.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace velora {
namespace {

/// Calls visit(address, position) for the elements in row-major order, while it returns kNone.
template <typename Visit>
Misfit walk(const ArrayView& in, const Visit& visit) {
  const std::int64_t count = in.num_elements();
  std::int64_t index[kMaxDims] = {};
  const std::byte* at = in.data;
  for (std::int64_t i = 0; i < count; ++i) {
    const Misfit misfit = visit(at, static_cast<std::size_t>(i));
    if (misfit != Misfit::kNone) return misfit;
    for (int d = in.ndim - 1; d >= 0; --d) {
      at += in.strides[d];
      if (++index[d] < in.shape[d]) break;
      at -= in.strides[d] * in.shape[d];
      index[d] = 0;
    }
  }
  return Misfit::kNone;
}

template <std::size_t kBytes>
Misfit copy_same(const ArrayView& in, std::byte* out) {
  return walk(in, [out](const std::byte* at, std::size_t i) {
    std::memcpy(out + i * kBytes, at, kBytes);
    return Misfit::kNone;
  });
}

bool loses_range(double value) {
  return std::fabs(static_cast<float>(value)) > std::numeric_limits<float>::max() &&
         std::fabs(value) <= std::numeric_limits<double>::max();
}

// Most environments observe in float64: one loop without a branch, judged at its end.
Misfit copy_doubles_as_floats(const double* in, std::int64_t count, std::byte* out) {
  bool fits = true;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto narrow_value = static_cast<float>(in[i]);
    fits &= !loses_range(in[i]);
    std::memcpy(out + static_cast<std::size_t>(i) * sizeof narrow_value, &narrow_value,
                sizeof narrow_value);
  }
  return fits ? Misfit::kNone : Misfit::kRange;
}

bool is_aligned(const ArrayView& in) {
  return reinterpret_cast<std::uintptr_t>(in.data) % size_of(in.dtype) == 0;
}

}  // namespace

std::string ArrayView::shape_string() const {
  return shape_text({shape, static_cast<std::size_t>(ndim)});
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t d = 0; d < shape.size(); ++d) {
    text += std::to_string(shape[d]) + (d + 1 < shape.size() ? ", " : "");
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

Misfit copy_elements(const ArrayView& in, DType to, std::byte* out) {
  if (in.is_contiguous()) {
    const std::int64_t count = in.num_elements();
    if (in.dtype == to) {
      std::memcpy(out, in.data, static_cast<std::size_t>(count) * size_of(to));
      return Misfit::kNone;
    }
    if (in.dtype == DType::kFloat64 && to == DType::kFloat32 && is_aligned(in)) {
      return copy_doubles_as_floats(reinterpret_cast<const double*>(in.data), count, out);
    }
  }
  if (in.dtype == to) {
    switch (size_of(to)) {
      case 1:
        return copy_same<1>(in, out);
      case 2:
        return copy_same<2>(in, out);
      case 4:
        return copy_same<4>(in, out);
      default:
        return copy_same<8>(in, out);
    }
  }
  const std::size_t size = size_of(to);
  return walk(in, [&](const std::byte* at, std::size_t i) {
    return write_number(read_number(at, in.dtype), to, out + i * size);
  });
}

Misfit check_elements(const ArrayView& in, DType to) {
  if (in.dtype == to) return Misfit::kNone;
  if (in.is_contiguous() && in.dtype == DType::kFloat64 && to == DType::kFloat32 &&
      is_aligned(in)) {
    const auto* values = reinterpret_cast<const double*>(in.data);
    bool fits = true;
    for (std::int64_t i = 0; i < in.num_elements(); ++i) fits &= !loses_range(values[i]);
    return fits ? Misfit::kNone : Misfit::kRange;
  }
  std::byte rubbish[sizeof(std::uint64_t)];
  return walk(in, [&](const std::byte* at, std::size_t) {
    return write_number(read_number(at, in.dtype), to, rubbish);
  });
}

}  // namespace velora
