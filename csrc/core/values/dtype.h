#pragma once

#include <cstddef>
#include <cstdint>

namespace velora {

/// Element types that cross the boundary. kFloat64 is read but never stored: it becomes kFloat32.
enum class DType : std::uint8_t {
  kBool,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
};

inline constexpr int kDTypeCount = 13;

constexpr std::size_t size_of(DType dtype) {
  constexpr std::size_t kSizes[kDTypeCount] = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8};
  return kSizes[static_cast<int>(dtype)];
}

/// The name that torch and numpy users know, for error messages: "float32".
constexpr const char* name_of(DType dtype) {
  constexpr const char* kNames[kDTypeCount] = {"bool",     "uint8",   "uint16", "uint32", "uint64",
                                               "int8",     "int16",   "int32",  "int64",  "float16",
                                               "bfloat16", "float32", "float64"};
  return kNames[static_cast<int>(dtype)];
}

}  // namespace velora
