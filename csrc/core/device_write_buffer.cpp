#include "core/device_write_buffer.h"

#include <algorithm>

namespace velora {
namespace {

std::size_t align(std::size_t bytes) {
  constexpr std::size_t kMask = DeviceWriteBuffer::kAlignment - 1;
  return (bytes + kMask) & ~kMask;
}

}  // namespace

DeviceWriteBuffer::DeviceWriteBuffer(DeviceRuntime& runtime, std::size_t half_bytes)
    : runtime_(&runtime),
      half_bytes_(align(half_bytes)),
      memory_(runtime, runtime.allocate_pinned(2 * half_bytes_)) {
  for (DeviceEvent& event : sent_) event = DeviceEvent(runtime, runtime.create_event());
}

void DeviceWriteBuffer::advance(std::size_t bytes) {
  used_ = std::min(half_bytes_, used_ + align(bytes));
}

void* DeviceWriteBuffer::sent(void* stream) {
  runtime_->record(sent_[half_].get(), stream);
  return sent_[half_].get();
}

void DeviceWriteBuffer::turn() {
  runtime_->synchronize_event(sent_[1 - half_].get());
  half_ = 1 - half_;
  used_ = 0;
}

}  // namespace velora
