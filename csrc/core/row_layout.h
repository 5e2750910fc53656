#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace velora {

/// What a field is to the algorithms that read rows.
enum class Role : std::uint8_t { kState, kAction, kReward, kNextState, kExtra };

/// One array of a row: a leaf of an observation, an action, a reward or a user's extra field.
struct Field {
  std::string name;
  Role role;
  DType dtype;
  std::vector<std::int64_t> shape;  // of one row, without the batch dimension
  std::size_t offset = 0;           // bytes from the start of the row; set by RowLayout
  std::size_t nbytes = 0;           // bytes in one row; set by RowLayout
};

/// Bits of the one byte in each row that says how its step ended.
inline constexpr std::uint8_t kDone = 1;
inline constexpr std::uint8_t kTruncated = 2;

/// Where each field of one transition lies in its row of bytes.
///
/// A row is contiguous: fields in the order state, action, reward, flags, next state, extras, each
/// aligned to its element. So one random draw touches one run of cache lines. The pitch (distance
/// between rows) is a multiple of 16 bytes, which the wide copies of CPU and GPU need, and of 64
/// where that costs at most an eighth: rows that start on a cache line touch fewer of them.
///
/// Immutable after construction, so it may be read from any thread.
class RowLayout {
 public:
  /// Throws ValueError when a field has no element or the row exceeds kMaxPitch bytes.
  explicit RowLayout(std::vector<Field> fields);

  static constexpr std::size_t kMaxPitch = std::size_t{1} << 32;

  const std::vector<Field>& fields() const { return fields_; }
  std::size_t flags_offset() const { return flags_offset_; }
  std::size_t pitch() const { return pitch_; }

 private:
  std::vector<Field> fields_;
  std::size_t flags_offset_ = 0;
  std::size_t pitch_ = 0;
};

}  // namespace velora
