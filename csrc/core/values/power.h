#pragma once

#include <cstdint>
#include <cstring>

#include "core/values/macros.h"

// Logarithm, exponential and power to base 2, in additions, multiplications, one division and
// operations on bits: equal bits on every device, which a libm does not promise. No tables and no
// branches, so a compiler vectorises loops over them.

namespace velora {
namespace detail {

VELORA_HD inline std::uint64_t bits_of(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  return bits;
}

VELORA_HD inline double from_bits(std::uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

/// `yes` where `flag` is 1 and `no` where it is 0. Flags are made of sign bits and selected by
/// masks: a compiler makes branches of comparisons, or cannot vectorise them.
VELORA_HD inline double select(std::uint64_t flag, double yes, double no) {
  const std::uint64_t mask = std::uint64_t{0} - flag;
  return from_bits((bits_of(yes) & mask) | (bits_of(no) & ~mask));
}

/// 1 for x < 0, otherwise 0.
VELORA_HD inline std::uint64_t is_negative(double x) { return bits_of(x + 0) >> 63; }

/// 1 for x less than 2**-1022, which is >= 0, otherwise 0.
VELORA_HD inline std::uint64_t is_subnormal(double x) {
  return (bits_of(x) - (std::uint64_t{1} << 52)) >> 63;
}

/// 1 for 0 and -0, otherwise 0.
VELORA_HD inline std::uint64_t is_zero(double x) {
  return ((bits_of(x) & ~(std::uint64_t{1} << 63)) - 1) >> 63;
}

/// log2(x) = whole + part, with an integer `whole` and |part| <= 1/2 + 2**-53.
struct SplitLog2 {
  double whole;
  double part;
};

/// For finite x > 0. `part` has a relative error below 2**-50, `whole` none.
///
///   x = 2**whole * m, 1/sqrt(2) <= m < sqrt(2);   s = (m - 1) / (m + 1)
///   log2(m) = 2 / ln(2) * (s + s**3 / 3 + s**5 / 5 + ...),  s**2 <= 0.0295
///
/// The terms from s**23 on are less than 2**-60 of the sum.
VELORA_HD inline SplitLog2 split_log2(double x) {
  constexpr std::uint64_t kSqrtHalf = 0x3FE6A09E667F3BCD;  // the bits of 1/sqrt(2), rounded up
  constexpr std::uint64_t kExponentBias = std::uint64_t{1100} << 52;  // keeps differences positive
  constexpr std::uint64_t kExponent = std::uint64_t{0xFFF} << 52;
  constexpr std::uint64_t kTwoTo52 = 0x4330000000000000;  // the bits of 2**52
  const std::uint64_t subnormal = is_subnormal(x);
  const std::uint64_t bits = bits_of(x * select(subnormal, 0x1p54, 1));
  const std::uint64_t above = bits - kSqrtHalf + kExponentBias;
  const double m = from_bits(bits - (above & kExponent) + kExponentBias);
  const double whole =
      from_bits(kTwoTo52 | above >> 52) - (0x1p52 + 1100) - select(subnormal, 54, 0);

  const double s = (m - 1) / (m + 1);
  const double z = s * s;
  const double z2 = z * z;
  const double z4 = z2 * z2;
  const double low = (0.96179669392597555 + 0.57707801635558531 * z) +
                     (0.41219858311113239 + 0.3205988979753252 * z) * z2;
  const double high = (0.26230818925253879 + 0.22195308321368668 * z) +
                      (0.19235933878519511 + 0.16972882833987803 * z) * z2;
  const double top = 0.15186263588304877 + 0.1373995277037108 * z;
  const double tail = low + (high + top * z4) * z4;
  return {whole, 2.8853900817779268 * s + s * z * tail};
}

/// 2**(whole + rest), clamped to the normal doubles: to 2**-1022 below, and to the largest finite
/// double above. |rest| is small beside |whole|, or `whole` is a
/// number of few digits, so that whole - round(whole + rest) is exact.
///
///   2**r = 1 + r ln(2) + (r ln(2))**2 / 2! + ...,  |r| <= 1/2
///
/// The terms from r**14 on are less than 2**-57 of the sum.
VELORA_HD inline double exp2_of_sum(double whole, double rest) {
  constexpr double kRound = 0x1.8p52;  // added, it leaves the nearest integer in the lowest bits
  constexpr double kSmallest = 0x1p-1022;
  constexpr double kLargest = 0x1.fffffffffffffp1023;
  const double exponent = whole + rest;
  const double shifted = exponent + kRound;
  const double r = (whole - (shifted - kRound)) + rest;

  const double r2 = r * r;
  const double r4 = r2 * r2;
  const double low = (0.24022650695910072 + 0.055504108664821583 * r) +
                     (0.0096181291076284769 + 0.0013333558146428443 * r) * r2;
  const double high = (0.00015403530393381609 + 1.5252733804059841e-05 * r) +
                      (1.3215486790144309e-06 + 1.01780860092397e-07 * r) * r2;
  const double top = (7.0549116208011234e-09 + 4.4455382718708116e-10 * r) +
                     (2.5678435993488206e-11 + 1.3691488853904128e-12 * r) * r2;
  const double tail = low + (high + top * r4) * r4;
  const double mantissa = 1 + (0.69314718055994529 * r + r2 * tail);
  double power = from_bits(bits_of(mantissa) + (bits_of(shifted) << 52));
  power = select(is_negative(exponent + 1022) | is_subnormal(power), kSmallest, power);
  return select(is_negative(exponent - 1024), power, kLargest);
}

}  // namespace detail

/// base**exponent for finite base >= 0 and |exponent| <= 2**64.
///
/// Exact where power(0, a) == 0 at every a, which includes a <= 0: a priority of 0 has no weight at
/// any alpha. Otherwise power(x, 0) == 1, power(1, a) == 1 and power(x, 1) == x.
///
/// Elsewhere the relative error is below 2**-51 * (1 + |exponent|), and so below 4e-15 where
/// |exponent| <= 8. What would be no normal double is clamped to the nearest: never infinite, NaN
/// or, for base > 0, 0.
///
/// Monotone in the base as far as the error allows: where x < y and y / x >= 1 + 2**-49 *
/// (1 + 1 / |a|), powers are in order or equal. All floats are that far apart for |a| >= 2**-24.
/// Powers of closer doubles may be out of order, by less than twice the error.
VELORA_HD inline double power(double base, double exponent) {
  // The logarithm's integer part times 26 bits of the exponent is exact.
  constexpr std::uint64_t kLowBits = (std::uint64_t{1} << 27) - 1;
  const detail::SplitLog2 log2 = detail::split_log2(base);
  const double high = detail::from_bits(detail::bits_of(exponent) & ~kLowBits);
  const double rest = (exponent - high) * log2.whole + exponent * log2.part;
  const double result = detail::exp2_of_sum(high * log2.whole, rest);
  return detail::select(detail::is_zero(base), 0, detail::select(exponent == 1, base, result));
}

}  // namespace velora
