#include "core/device/write_buffer.h"

#include <utility>

namespace velora {
namespace {

PinnedMemory allocate(DeviceRuntime& runtime, std::size_t half_bytes) {
  return {runtime, runtime.allocate_pinned(2 * half_bytes, "write buffer")};
}

}  // namespace

DeviceWriteBuffer::DeviceWriteBuffer(DeviceRuntime& runtime, std::size_t half_bytes)
    : runtime_(runtime), half_bytes_(align(half_bytes)), memory_(allocate(runtime, half_bytes_)) {
  for (DeviceEvent& event : sent_) event = DeviceEvent(runtime, runtime.create_event());
}

std::byte* DeviceWriteBuffer::take(std::size_t bytes) {
  std::byte* taken = half() + used_;
  used_ += align(bytes);  // halves are aligned, too: a last piece never reaches beyond
  return taken;
}

void DeviceWriteBuffer::give_back(std::byte* from) {
  used_ = static_cast<std::size_t>(from - half());
}

void DeviceWriteBuffer::sent(void* stream) { runtime_.record(sent_[half_].get(), stream); }

void DeviceWriteBuffer::swap_halves() {
  runtime_.synchronize_event(sent_[1 - half_].get());
  half_ = 1 - half_;
  used_ = 0;
}

void DeviceWriteBuffer::grow(std::size_t half_bytes) {
  PinnedMemory grown = allocate(runtime_, align(half_bytes));
  for (DeviceEvent& event : sent_) runtime_.synchronize_event(event.get());
  memory_ = std::move(grown);
  half_bytes_ = align(half_bytes);
  half_ = 0;
  used_ = 0;
}

}  // namespace velora
