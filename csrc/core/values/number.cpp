#include "core/values/number.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace velora {
namespace {

// The 16-bit floats, which C++20 has no types for, as bit patterns.

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
  const int bits = rounded < implicit ? rounded : ((exponent - 1) << kMantissaBits) + rounded;
  return static_cast<std::uint16_t>(sign | std::min(bits, kInfinity));
}

template <typename T>
T read_as(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <typename To>
Misfit to_integer(const Number& number, To* out) {
  switch (number.kind) {
    case Number::Kind::kInteger:
      if (!std::in_range<To>(number.integer)) return Misfit::kRange;
      *out = static_cast<To>(number.integer);
      return Misfit::kNone;
    case Number::Kind::kNatural:
      if (!std::in_range<To>(number.natural)) return Misfit::kRange;
      *out = static_cast<To>(number.natural);
      return Misfit::kNone;
    case Number::Kind::kReal:
      break;
  }
  // The limits of To are a power of two and zero or its negative: exact as doubles.
  const double limit = std::ldexp(1.0, std::numeric_limits<To>::digits);
  const double lowest = std::is_signed_v<To> ? -limit : 0.0;
  if (!(number.real >= lowest && number.real < limit)) return Misfit::kRange;
  if (number.real != std::trunc(number.real)) return Misfit::kFraction;
  *out = static_cast<To>(number.real);
  return Misfit::kNone;
}

/// Calls f with the number as the type of its kind.
template <typename F>
auto as_given(const Number& number, const F& f) {
  if (number.kind == Number::Kind::kInteger) return f(number.integer);
  if (number.kind == Number::Kind::kNatural) return f(number.natural);
  return f(number.real);
}

/// A double that a short float rounds as it would the number itself: where an integer has more bits
/// than a double, a bit that is set stands for all that are cut off.
double as_double(const Number& number) {
  if (number.kind == Number::Kind::kReal) return number.real;
  const bool is_negative = number.kind == Number::Kind::kInteger && number.integer < 0;
  std::uint64_t magnitude = number.natural;
  if (number.kind == Number::Kind::kInteger) {
    magnitude = static_cast<std::uint64_t>(number.integer);
    if (is_negative) magnitude = -magnitude;
  }
  int cut = 0;
  if (magnitude >> std::numeric_limits<double>::digits != 0) {
    cut = std::numeric_limits<std::uint64_t>::digits - std::numeric_limits<double>::digits + 1;
    const bool loses_bits = magnitude << (64 - cut) != 0;
    magnitude = (magnitude >> cut) | std::uint64_t{loses_bits};
  }
  const double value = std::ldexp(static_cast<double>(magnitude), cut);
  return is_negative ? -value : value;
}

/// Only infinity may be stored as infinity.
Misfit check_range(const Number& number, double stored) {
  const bool was_finite = number.kind != Number::Kind::kReal || !std::isinf(number.real);
  return std::isinf(stored) && was_finite ? Misfit::kRange : Misfit::kNone;
}

template <typename To>
Misfit write_integer(const Number& number, std::byte* at) {
  To value{};
  const Misfit misfit = to_integer(number, &value);
  std::memcpy(at, &value, sizeof value);
  return misfit;
}

template <int kExponentBits, int kMantissaBits>
Misfit write_short_float(const Number& number, std::byte* at) {
  const std::uint16_t bits = narrow<kExponentBits, kMantissaBits>(as_double(number));
  std::memcpy(at, &bits, sizeof bits);
  return check_range(number, double{widen<kExponentBits, kMantissaBits>(bits)});
}

template <typename To>
Misfit write_float(const Number& number, std::byte* at) {
  // Not by way of a double: an integer would be rounded twice.
  const To stored = as_given(number, [](auto given) { return static_cast<To>(given); });
  std::memcpy(at, &stored, sizeof stored);
  return check_range(number, double{stored});
}

}  // namespace

Number read_number(const std::byte* at, DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return Number::of(std::uint64_t{read_as<std::uint8_t>(at) != 0});
    case DType::kUInt8:
      return Number::of(std::uint64_t{read_as<std::uint8_t>(at)});
    case DType::kUInt16:
      return Number::of(std::uint64_t{read_as<std::uint16_t>(at)});
    case DType::kUInt32:
      return Number::of(std::uint64_t{read_as<std::uint32_t>(at)});
    case DType::kUInt64:
      return Number::of(read_as<std::uint64_t>(at));
    case DType::kInt8:
      return Number::of(std::int64_t{read_as<std::int8_t>(at)});
    case DType::kInt16:
      return Number::of(std::int64_t{read_as<std::int16_t>(at)});
    case DType::kInt32:
      return Number::of(std::int64_t{read_as<std::int32_t>(at)});
    case DType::kInt64:
      return Number::of(read_as<std::int64_t>(at));
    case DType::kFloat16:
      return Number::of(double{widen<5, 10>(read_as<std::uint16_t>(at))});
    case DType::kBFloat16:
      return Number::of(double{widen<8, 7>(read_as<std::uint16_t>(at))});
    case DType::kFloat32:
      return Number::of(double{read_as<float>(at)});
    case DType::kFloat64:
      return Number::of(read_as<double>(at));
  }
  return Number::of(std::numeric_limits<double>::quiet_NaN());
}

Misfit write_number(const Number& number, DType dtype, std::byte* at) {
  switch (dtype) {
    case DType::kBool: {
      std::uint8_t value = 0;
      const Misfit misfit = to_integer(number, &value);
      *at = std::byte{value};
      return misfit == Misfit::kNone && value > 1 ? Misfit::kRange : misfit;
    }
    case DType::kUInt8:
      return write_integer<std::uint8_t>(number, at);
    case DType::kUInt16:
      return write_integer<std::uint16_t>(number, at);
    case DType::kUInt32:
      return write_integer<std::uint32_t>(number, at);
    case DType::kUInt64:
      return write_integer<std::uint64_t>(number, at);
    case DType::kInt8:
      return write_integer<std::int8_t>(number, at);
    case DType::kInt16:
      return write_integer<std::int16_t>(number, at);
    case DType::kInt32:
      return write_integer<std::int32_t>(number, at);
    case DType::kInt64:
      return write_integer<std::int64_t>(number, at);
    case DType::kFloat16:
      return write_short_float<5, 10>(number, at);
    case DType::kBFloat16:
      return write_short_float<8, 7>(number, at);
    case DType::kFloat32:
      return write_float<float>(number, at);
    case DType::kFloat64:
      return write_float<double>(number, at);
  }
  return Misfit::kRange;
}

}  // namespace velora
