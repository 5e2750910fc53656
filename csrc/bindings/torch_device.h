#pragma once

#include <ATen/dlpack.h>

#include <cstddef>

#include "core/device/runtime.h"

namespace velora {

/// A CUDA device as torch manages it: its memory comes from torch's caching allocator, its work
/// goes to torch's current stream. There is one for each device, for as long as the process lives.
class TorchDevice final : public DeviceAllocator {
 public:
  /// Throws DeviceError with advice when the device cannot be used.
  static TorchDevice& of(int index);

  DeviceRuntime& runtime() const { return runtime_; }
  Device device() { return {runtime_, *this}; }
  /// Its name in DLPack.
  DLDevice name() const { return name_; }
  /// Whether a tensor lies in its memory.
  bool holds(const DLTensor& tensor) const {
    return tensor.device.device_type == name_.device_type &&
           tensor.device.device_id == name_.device_id;
  }
  /// The stream on which torch queues the calling thread's work.
  void* current_stream() const;

  /// Memory in the order of the current stream.
  Piece allocate(std::size_t bytes, const char* purpose) override;
  void free(void* owner) noexcept override;

 private:
  explicit TorchDevice(int index);

  DeviceRuntime& runtime_;
  DLDevice name_;
};

}  // namespace velora
