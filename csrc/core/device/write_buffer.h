#pragma once

#include <cstddef>

#include "core/device/runtime.h"

namespace velora {

/// Pinned memory in which the host puts down what the device is to read, in two halves: while the
/// device reads one, the host fills the other.
///
/// Invariant: no byte is given out again before all that reads it is done. The host waits for that
/// only in swap_halves(), a whole half after it was queued, and in grow().
class DeviceWriteBuffer {
 public:
  static constexpr std::size_t kAlignment = 16;
  static std::size_t align(std::size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  /// `half_bytes` is the most that can be put down between two swaps. Throws MemoryError.
  DeviceWriteBuffer(DeviceRuntime& runtime, std::size_t half_bytes);

  bool has_room(std::size_t bytes) const { return bytes <= half_bytes_ - used_; }
  std::size_t half_bytes() const { return half_bytes_; }
  /// The next `bytes`, aligned to kAlignment. Precondition: there is room.
  std::byte* take(std::size_t bytes);
  /// Gives back what was taken from `from` on.
  void give_back(std::byte* from);

  /// Marks that readers of the current half were queued on `stream`.
  void sent(void* stream);
  /// Goes on at the start of the other half. All of this one must have been sent.
  void swap_halves();
  /// Makes halves of at least that many bytes. All must have been sent. Throws MemoryError, and
  /// then it is as before.
  void grow(std::size_t half_bytes);

 private:
  std::byte* half() const { return memory_.data() + half_ * half_bytes_; }

  DeviceRuntime& runtime_;
  std::size_t half_bytes_;
  PinnedMemory memory_;
  DeviceEvent sent_[2];
  std::size_t half_ = 0;
  std::size_t used_ = 0;
};

}  // namespace velora
