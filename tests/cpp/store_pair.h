#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "core/draw.h"
#include "core/gather.h"
#include "core/row_layout.h"
#include "core/store.h"

namespace velora::testing {

/// Fields of every word size, so that rows hold odd places and gaps.
inline RowLayout mixed_layout() {
  return RowLayout(
      {{.name = "state", .role = Role::kState, .dtype = DType::kFloat32, .shape = {17}},
       {.name = "frame", .role = Role::kState, .dtype = DType::kUInt8, .shape = {4, 8}},
       {.name = "action", .role = Role::kAction, .dtype = DType::kInt64, .shape = {1}},
       {.name = "reward", .role = Role::kReward, .dtype = DType::kFloat32, .shape = {1}},
       {.name = "half", .role = Role::kExtra, .dtype = DType::kFloat16, .shape = {3}},
       {.name = "bytes", .role = Role::kExtra, .dtype = DType::kUInt8, .shape = {5}}});
}

/// One byte of state, and nothing else.
inline RowLayout tiny_layout() {
  return RowLayout({{.name = "state", .role = Role::kState, .dtype = DType::kUInt8, .shape = {1}}});
}

/// More fields than a launch takes along.
inline RowLayout wide_layout(std::size_t fields) {
  std::vector<Field> list;
  for (std::size_t i = 0; i < fields; ++i) {
    list.push_back({.name = std::to_string(i),
                    .role = Role::kState,
                    .dtype = i % 2 == 0 ? DType::kFloat32 : DType::kUInt8,
                    .shape = {static_cast<std::int64_t>(1 + i % 3)}});
  }
  return RowLayout(std::move(list));
}

/// A batch of `count` rows in memory that `bytes` points to.
class Batch {
 public:
  static std::size_t nbytes(const RowLayout& layout, std::size_t count) {
    std::size_t bytes = 0;
    for (const Field& field : layout.fields()) bytes += align(field.nbytes * count);
    return bytes + 4 * align(sizeof(std::int64_t) * count);
  }

  Batch(const RowLayout& layout, std::size_t count, std::byte* bytes) {
    const auto part = [&](std::size_t size) { return std::exchange(bytes, bytes + align(size)); };
    for (const Field& field : layout.fields()) {
      columns_.push_back(
          {.row_offset = field.offset, .nbytes = field.nbytes, .out = part(field.nbytes * count)});
    }
    target_.columns = columns_.data();
    target_.num_columns = static_cast<std::uint32_t>(columns_.size());
    target_.gamma = 0.5f;
    target_.dones = reinterpret_cast<float*>(part(sizeof(float) * count));
    target_.truncations = reinterpret_cast<float*>(part(sizeof(float) * count));
    target_.discounts = reinterpret_cast<float*>(part(sizeof(float) * count));
    target_.indices = reinterpret_cast<std::int64_t*>(part(sizeof(std::int64_t) * count));
  }

  const BatchTarget& target() const { return target_; }

 private:
  static std::size_t align(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

  std::vector<Column> columns_;
  BatchTarget target_ = {};
};

inline void fill_row(std::mt19937_64& random, const RowLayout& layout, std::byte* row) {
  for (std::size_t i = 0; i < layout.pitch(); ++i) row[i] = static_cast<std::byte>(random());
  row[layout.flags_offset()] &= std::byte{kDone | kTruncated};
}

}  // namespace velora::testing
