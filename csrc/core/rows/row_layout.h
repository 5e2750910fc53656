#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/values/dtype.h"

namespace velora {

/// Role of a field for the algorithms that read rows.
enum class Role : std::uint8_t { kState, kAction, kReward, kNextState, kExtra };

/// One array of a row: a leaf of an observation, an action, a reward or a user's extra field.
struct Field {
  std::string name;
  Role role;
  DType dtype;
  std::vector<std::int64_t> shape;  // of one row, without the batch dimension
  // Set by RowLayout, in bytes:
  std::size_t nbytes = 0;        // of the whole field
  std::size_t offset = 0;        // from the start of the row
  std::size_t block_offset = 0;  // from the start of a block; of observations in compact rows
  std::uint32_t frames = 1;      // of which the row holds the newest
};

/// Bits of the one byte in each row that says where its step stands in its episode.
inline constexpr std::uint8_t kDone = 1;
inline constexpr std::uint8_t kTruncated = 2;
inline constexpr std::uint8_t kFirst = 4;
inline constexpr std::uint8_t kEnds = kDone | kTruncated;

/// How observations are stored.
struct ObservationStorage {
  /// Once each: a row's next state is the state of the row after it. What cannot be found there
  /// lies in a block beside the rows.
  bool compact = false;
  /// States are stacks of this many frames along their first dimension, and a row holds only the
  /// newest. More than 1 needs `compact`.
  std::uint32_t frame_stack = 1;

  static constexpr std::uint32_t kMaxFrameStack = 64;
};

/// Where each field of one transition lies in its row of bytes.
///
/// A row is contiguous: fields in the order state, action, reward, flags, next state, extras, each
/// aligned to its element. So one random draw touches one run of cache lines. The pitch (distance
/// between rows) is a multiple of 16 bytes, which the wide copies of CPU and GPU need, and of 64
/// where that costs at most an eighth: rows that start on a cache line touch fewer of them.
///
/// Compact rows have two links instead of a next state (see CompactRule), and states of one frame.
/// Whole observations then lie in blocks, leaf after leaf; without frames to stack, a block begins
/// as a row does.
///
/// Immutable after construction, so it may be read from any thread.
class RowLayout {
 public:
  /// Throws ValueError when a field has no element, the row exceeds kMaxPitch bytes, or no state
  /// is a stack of that many frames.
  explicit RowLayout(std::vector<Field> fields, ObservationStorage observations = {});

  static constexpr std::size_t kMaxPitch = std::size_t{1} << 32;

  const std::vector<Field>& fields() const { return fields_; }
  std::size_t flags_offset() const { return flags_offset_; }
  std::size_t pitch() const { return pitch_; }
  bool compact() const { return observations_.compact; }
  std::uint32_t frame_stack() const { return observations_.frame_stack; }
  /// Of compact rows: where the links lie, and the bytes of a block.
  std::size_t links_offset() const { return links_offset_; }
  std::size_t block_bytes() const { return block_bytes_; }

 private:
  std::size_t lay_out_fields();
  void lay_out_blocks();

  std::vector<Field> fields_;
  ObservationStorage observations_;
  std::size_t flags_offset_ = 0;
  std::size_t links_offset_ = 0;
  std::size_t block_bytes_ = 0;
  std::size_t pitch_ = 0;
};

}  // namespace velora
