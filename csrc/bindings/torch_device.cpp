#include "bindings/torch_device.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "bindings/cuda_library.h"
#include "bindings/exchange_api.h"
#include "core/errors.h"

namespace velora {

TorchDevice& TorchDevice::of(int index) {
  // Kept: buffers outlive whatever order a process ends in. The GIL guards it.
  static auto* devices = new std::map<int, std::unique_ptr<TorchDevice>>;
  std::unique_ptr<TorchDevice>& device = (*devices)[index];
  if (device == nullptr) device.reset(new TorchDevice(index));
  return *device;
}

TorchDevice::TorchDevice(int index)
    : runtime_(cuda_runtime(index)),
      name_(runtime_.is_emulated() ? DLDevice{kDLCPU, 0} : DLDevice{kDLCUDA, index}) {}

void* TorchDevice::current_stream() const {
  return runtime_.is_emulated() ? nullptr : velora::current_stream(name_.device_id);
}

DeviceAllocator::Piece TorchDevice::allocate(std::size_t bytes, const char* purpose) {
  if (bytes > INT64_MAX) throw MemoryError(std::string(purpose) + ": too large for any device");
  auto extent = static_cast<std::int64_t>(bytes);
  DLTensor prototype = {.data = nullptr,
                        .device = name_,
                        .ndim = 1,
                        .dtype = to_dlpack_type(DType::kUInt8),
                        .shape = &extent,
                        .strides = nullptr,
                        .byte_offset = 0};
  std::string why;
  DLManagedTensorVersioned* managed = nullptr;
  const auto set_error = [](void* context, const char*, const char* message) {
    *static_cast<std::string*>(context) = message;
  };
  if (exchange_api().managed_tensor_allocator(&prototype, &managed, &why, set_error) != 0) {
    throw MemoryError(std::string(purpose) + ": torch refused " + std::to_string(bytes) +
                      " bytes: " + why);
  }
  auto* data = static_cast<std::byte*>(managed->dl_tensor.data) + managed->dl_tensor.byte_offset;
  return {.data = data, .owner = managed};
}

void TorchDevice::free(void* owner) noexcept {
  auto* managed = static_cast<DLManagedTensorVersioned*>(owner);
  managed->deleter(managed);
}

}  // namespace velora
