#include "core/array_view.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace velora {
namespace {

// The 16-bit floats, which C++20 has no types for, as bit patterns with conversions.

template <int kExponentBits, int kMantissaBits>
float widen(std::uint16_t bits) {
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  constexpr int kMaxExponent = (1 << kExponentBits) - 1;
  const int exponent = (bits >> kMantissaBits) & kMaxExponent;
  const int mantissa = bits & ((1 << kMantissaBits) - 1);
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == kMaxExponent) {
    return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN()
                         : sign * std::numeric_limits<float>::infinity();
  }
  const int implicit = exponent != 0 ? 1 << kMantissaBits : 0;
  const int power = (exponent != 0 ? exponent : 1) - kBias - kMantissaBits;
  return sign * std::ldexp(static_cast<float>(mantissa + implicit), power);
}

// Rounds to nearest, ties to even.
template <int kExponentBits, int kMantissaBits>
std::uint16_t narrow(double value) {
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  constexpr int kInfinity = ((1 << kExponentBits) - 1) << kMantissaBits;
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | kInfinity | 1);
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | kInfinity);
  if (magnitude == 0.0) return sign;
  int exponent = std::ilogb(magnitude) + kBias;
  if (exponent < 1) exponent = 1;
  // In units of the last place; a carry out of the mantissa lands in the exponent, as it should.
  const double units = std::ldexp(magnitude, kBias + kMantissaBits - exponent);
  const auto rounded = static_cast<int>(std::min(std::nearbyint(units), 65536.0));
  const int implicit = 1 << kMantissaBits;
  const int bits = rounded < implicit ? rounded
                                      : ((exponent - 1) << kMantissaBits) + rounded;
  return static_cast<std::uint16_t>(sign | std::min(bits, kInfinity));
}

struct Half {
  std::uint16_t bits;
  static Half from(double value) { return {narrow<5, 10>(value)}; }
  double value() const { return widen<5, 10>(bits); }
};

struct BrainFloat {
  std::uint16_t bits;
  static BrainFloat from(double value) { return {narrow<8, 7>(value)}; }
  double value() const { return widen<8, 7>(bits); }
};

template <typename T>
inline constexpr bool kIsShortFloat = std::is_same_v<T, Half> || std::is_same_v<T, BrainFloat>;

template <typename To>
Misfit convert_integral(double value, To* out) {
  if (std::isnan(value)) return Misfit::kRange;
  // Both limits are powers of two (or 0), so they are exact as doubles.
  constexpr int kDigits = std::numeric_limits<To>::digits;
  const double limit = std::ldexp(1.0, kDigits);
  if (value >= limit || value < (std::is_signed_v<To> ? -limit : 0.0)) return Misfit::kRange;
  if (value != std::trunc(value)) return Misfit::kFraction;
  *out = static_cast<To>(value);
  return Misfit::kNone;
}

template <typename To>
To round_to(double value) {
  if constexpr (kIsShortFloat<To>) {
    return To::from(value);
  } else {
    return static_cast<To>(value);
  }
}

template <typename To>
double as_double(To value) {
  if constexpr (kIsShortFloat<To>) {
    return value.value();
  } else {
    return static_cast<double>(value);
  }
}

template <typename From, typename To>
Misfit convert(From value, To* out) {
  if constexpr (std::is_same_v<From, To>) {
    *out = value;
    return Misfit::kNone;
  } else if constexpr (std::is_integral_v<From> && std::is_integral_v<To>) {
    if (!std::in_range<std::conditional_t<std::is_same_v<To, bool>, std::uint8_t, To>>(
            std::conditional_t<std::is_same_v<From, bool>, std::uint8_t, From>(value))) {
      return Misfit::kRange;
    }
    if (std::is_same_v<To, bool> && value != static_cast<From>(0) &&
        value != static_cast<From>(1)) {
      return Misfit::kRange;
    }
    *out = static_cast<To>(value);
    return Misfit::kNone;
  } else if constexpr (std::is_integral_v<To>) {
    return convert_integral<To>(as_double(value), out);
  } else {
    const double wide = as_double(value);
    *out = round_to<To>(wide);
    const double stored = as_double(*out);
    if (std::isinf(stored) && !std::isinf(wide)) return Misfit::kRange;
    if constexpr (std::is_integral_v<From>) {
      // 2**63 and 2**64 as doubles are out of the integer's own range: compare the safe way round.
      From back{};
      if (convert(stored, &back) != Misfit::kNone || back != value) return Misfit::kPrecision;
    }
    return Misfit::kNone;
  }
}

// Walks the elements in row-major order and gives each one's address and place.
template <typename Visit>
Misfit walk(const ArrayView& in, Visit visit) {
  const std::int64_t count = in.num_elements();
  std::int64_t index[kMaxDims] = {};
  const std::byte* at = in.data;
  for (std::int64_t i = 0; i < count; ++i) {
    if (const Misfit misfit = visit(at, i); misfit != Misfit::kNone) return misfit;
    for (int d = in.ndim - 1; d >= 0; --d) {
      at += in.strides[d];
      if (++index[d] < in.shape[d]) break;
      at -= in.strides[d] * in.shape[d];
      index[d] = 0;
    }
  }
  return Misfit::kNone;
}

template <typename From, typename To>
Misfit copy_as(const ArrayView& in, std::byte* out) {
  return walk(in, [out](const std::byte* at, std::int64_t i) {
    From value;
    std::memcpy(&value, at, sizeof value);
    To converted{};
    const Misfit misfit = convert(value, &converted);
    std::memcpy(out + static_cast<std::size_t>(i) * sizeof converted, &converted, sizeof converted);
    return misfit;
  });
}

template <typename From>
Misfit copy_from(const ArrayView& in, DType to, std::byte* out) {
  switch (to) {
    case DType::kBool:
      return copy_as<From, bool>(in, out);
    case DType::kUInt8:
      return copy_as<From, std::uint8_t>(in, out);
    case DType::kUInt16:
      return copy_as<From, std::uint16_t>(in, out);
    case DType::kUInt32:
      return copy_as<From, std::uint32_t>(in, out);
    case DType::kUInt64:
      return copy_as<From, std::uint64_t>(in, out);
    case DType::kInt8:
      return copy_as<From, std::int8_t>(in, out);
    case DType::kInt16:
      return copy_as<From, std::int16_t>(in, out);
    case DType::kInt32:
      return copy_as<From, std::int32_t>(in, out);
    case DType::kInt64:
      return copy_as<From, std::int64_t>(in, out);
    case DType::kFloat16:
      return copy_as<From, Half>(in, out);
    case DType::kBFloat16:
      return copy_as<From, BrainFloat>(in, out);
    case DType::kFloat32:
      return copy_as<From, float>(in, out);
    case DType::kFloat64:
      return copy_as<From, double>(in, out);
  }
  return Misfit::kRange;
}

// Most environments observe in float64: one loop without a branch, judged at its end.
Misfit copy_doubles_as_floats(const double* in, std::int64_t count, std::byte* out) {
  bool fits = true;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto narrow_value = static_cast<float>(in[i]);
    fits &= !(std::fabs(narrow_value) > std::numeric_limits<float>::max() &&
              std::fabs(in[i]) <= std::numeric_limits<double>::max());
    std::memcpy(out + static_cast<std::size_t>(i) * sizeof narrow_value, &narrow_value,
                sizeof narrow_value);
  }
  return fits ? Misfit::kNone : Misfit::kRange;
}

bool is_aligned(const ArrayView& in) {
  return reinterpret_cast<std::uintptr_t>(in.data) % size_of(in.dtype) == 0;
}

}  // namespace

std::int64_t ArrayView::num_elements() const {
  std::int64_t count = 1;
  for (int d = 0; d < ndim; ++d) count *= shape[d];
  return count;
}

bool ArrayView::is_contiguous() const {
  auto expected = static_cast<std::int64_t>(size_of(dtype));
  for (int d = ndim - 1; d >= 0; --d) {
    if (shape[d] != 1 && strides[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

std::string ArrayView::shape_string() const {
  std::string text = "(";
  for (int d = 0; d < ndim; ++d) text += std::to_string(shape[d]) + (d + 1 < ndim ? ", " : "");
  return text + (ndim == 1 ? ",)" : ")");
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
  switch (in.dtype) {
    case DType::kBool:
      return copy_from<bool>(in, to, out);
    case DType::kUInt8:
      return copy_from<std::uint8_t>(in, to, out);
    case DType::kUInt16:
      return copy_from<std::uint16_t>(in, to, out);
    case DType::kUInt32:
      return copy_from<std::uint32_t>(in, to, out);
    case DType::kUInt64:
      return copy_from<std::uint64_t>(in, to, out);
    case DType::kInt8:
      return copy_from<std::int8_t>(in, to, out);
    case DType::kInt16:
      return copy_from<std::int16_t>(in, to, out);
    case DType::kInt32:
      return copy_from<std::int32_t>(in, to, out);
    case DType::kInt64:
      return copy_from<std::int64_t>(in, to, out);
    case DType::kFloat16:
      return copy_from<Half>(in, to, out);
    case DType::kBFloat16:
      return copy_from<BrainFloat>(in, to, out);
    case DType::kFloat32:
      return copy_from<float>(in, to, out);
    case DType::kFloat64:
      return copy_from<double>(in, to, out);
  }
  return Misfit::kRange;
}

}  // namespace velora
