#pragma once

#include <cstddef>
#include <vector>

#include "core/device/runtime.h"

namespace velora {

/// Pinned memory through which batches go to a device. A piece is used again when the copy of what
/// it held is done.
///
/// The host waits only where kMost copies are on their way. Not synchronised.
class CopyRing {
 public:
  static constexpr std::size_t kMost = 4;

  explicit CopyRing(DeviceRuntime& runtime) : runtime_(runtime) {}
  ~CopyRing();
  CopyRing(const CopyRing&) = delete;
  CopyRing& operator=(const CopyRing&) = delete;

  /// Memory to write `bytes` to, the same until send(). Throws MemoryError.
  std::byte* take(std::size_t bytes);
  /// Queues a copy of what was written, `offset` bytes on.
  void copy(std::byte* device, std::size_t offset, std::size_t bytes, void* stream);
  /// All copies were queued.
  void send(void* stream);

 private:
  struct Piece {
    std::size_t bytes = 0;
    PinnedMemory memory;
    DeviceEvent copied;
  };

  Piece& free_piece();

  DeviceRuntime& runtime_;
  std::vector<Piece> pieces_;  // the one that was taken last stands last
};

}  // namespace velora
