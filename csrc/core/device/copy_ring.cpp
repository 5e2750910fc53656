#include "core/device/copy_ring.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace velora {

CopyRing::~CopyRing() {
  try {
    for (const Piece& piece : pieces_) runtime_.synchronize_event(piece.copied.get());
  } catch (const std::exception&) {
    return;  // the device failed: it reads nothing any more
  }
}

/// The piece whose copy was queued first, which becomes the last; a new one while that one is still
/// being read.
CopyRing::Piece& CopyRing::free_piece() {
  const bool is_free = !pieces_.empty() && runtime_.has_passed(pieces_.front().copied.get());
  if (is_free || pieces_.size() == kMost) {
    if (!is_free) runtime_.synchronize_event(pieces_.front().copied.get());
    std::rotate(pieces_.begin(), pieces_.begin() + 1, pieces_.end());
  } else {
    pieces_.push_back({.memory = {}, .copied = DeviceEvent(runtime_, runtime_.create_event())});
  }
  return pieces_.back();
}

std::byte* CopyRing::take(std::size_t bytes) {
  Piece& piece = free_piece();
  if (piece.bytes < bytes) {
    piece.memory = {};
    piece.bytes = 0;
    piece.memory = PinnedMemory(runtime_, runtime_.allocate_pinned(bytes, "batch"));
    piece.bytes = bytes;
  }
  return piece.memory.data();
}

void CopyRing::copy(std::byte* device, std::size_t offset, std::size_t bytes, void* stream) {
  runtime_.copy_to_device(device, pieces_.back().memory.data() + offset, bytes, stream);
}

void CopyRing::send(void* stream) { runtime_.record(pieces_.back().copied.get(), stream); }

}  // namespace velora
