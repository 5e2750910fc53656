#pragma once

#include <cstddef>

#include "core/device_runtime.h"

namespace velora {

/// Pinned memory in which the host puts down what goes to the device, in two halves: while the
/// device reads one, the host fills the other.
///
/// Invariant: no byte is given out again before every copy that reads it is done. The host waits
/// for that only in turn(), a whole half after the copies were queued.
class DeviceWriteBuffer {
 public:
  static constexpr std::size_t kAlignment = 16;

  /// `half_bytes` is the most that can be put down between two turns. Throws MemoryError.
  DeviceWriteBuffer(DeviceRuntime& runtime, std::size_t half_bytes);

  bool has_room(std::size_t bytes) const { return bytes <= half_bytes_ - used_; }
  /// Where the next bytes go, aligned to kAlignment.
  std::byte* next() const { return memory_.data() + half_ * half_bytes_ + used_; }
  void advance(std::size_t bytes);

  /// Marks that copies from the current half were queued on `stream`. Returns the mark, which
  /// stands until the next call with the same half.
  void* sent(void* stream);
  /// Goes on at the start of the other half. All of this one must have been sent.
  void turn();

 private:
  DeviceRuntime* runtime_;
  std::size_t half_bytes_;
  PinnedMemory memory_;
  DeviceEvent sent_[2];
  std::size_t half_ = 0;
  std::size_t used_ = 0;
};

}  // namespace velora
