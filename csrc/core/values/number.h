#pragma once

#include <cstddef>
#include <cstdint>

#include "core/values/dtype.h"

namespace velora {

/// Why a value does not fit into the dtype that it should be stored as.
enum class Misfit { kNone, kFraction, kRange };

/// A number of any dtype, exactly: each dtype's values are whole in one of the three.
struct Number {
  enum class Kind { kReal, kInteger, kNatural } kind;
  double real;
  std::int64_t integer;
  std::uint64_t natural;

  static Number of(double value) { return {Kind::kReal, value, 0, 0}; }
  static Number of(std::int64_t value) { return {Kind::kInteger, 0, value, 0}; }
  static Number of(std::uint64_t value) { return {Kind::kNatural, 0, 0, value}; }
};

Number read_number(const std::byte* at, DType dtype);

/// Writes a number, unless the dtype cannot hold it: a fraction for an integer, or a number out of
/// range. Floats round to nearest. The value written for a misfit is undefined.
Misfit write_number(const Number& number, DType dtype, std::byte* at);

}  // namespace velora
