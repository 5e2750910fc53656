#include "bindings/torch_device.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "bindings/cuda_library.h"
#include "bindings/exchange_api.h"
#include "core/values/errors.h"

namespace py = pybind11;

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

namespace {

/// While it lives, torch's dispatch modes (FakeTensorMode is one) are out of force in this thread.
/// One would answer instead of the allocator, and it is code that could change what a call has
/// already looked at.
class DispatchModesOff {
 public:
  DispatchModesOff() {
    const py::object torch = py::module_::import("torch._C");
    if (py::cast<int>(torch.attr("_len_torch_dispatch_stack")()) == 0) return;
    guard_ = torch.attr("_DisableTorchDispatch")();
    guard_.attr("__enter__")();
  }
  ~DispatchModesOff() {
    if (!guard_) return;
    PyObject* const left =
        PyObject_CallMethod(guard_.ptr(), "__exit__", "OOO", Py_None, Py_None, Py_None);
    if (left == nullptr) PyErr_WriteUnraisable(guard_.ptr());
    Py_XDECREF(left);
  }
  DispatchModesOff(const DispatchModesOff&) = delete;
  DispatchModesOff& operator=(const DispatchModesOff&) = delete;

 private:
  py::object guard_;
};

/// Whether it is what was asked for, and not what a transform of functions made of it.
bool is_memory(const DLTensor& tensor, const DLTensor& prototype) {
  return tensor.data != nullptr && tensor.device.device_type == prototype.device.device_type &&
         tensor.device.device_id == prototype.device.device_id && tensor.ndim == 1 &&
         tensor.shape[0] == prototype.shape[0] && tensor.dtype.code == prototype.dtype.code &&
         tensor.dtype.bits == prototype.dtype.bits && is_contiguous(tensor);
}

}  // namespace

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
  const DispatchModesOff modes_off;
  if (exchange_api().managed_tensor_allocator(&prototype, &managed, &why, set_error) != 0) {
    throw MemoryError(std::string(purpose) + ": torch refused " + std::to_string(bytes) +
                      " bytes: " + why);
  }
  if (bytes > 0 && !is_memory(managed->dl_tensor, prototype)) {
    free(managed);
    throw MemoryError(std::string(purpose) + ": expected " + std::to_string(bytes) +
                      " bytes from torch, got a tensor without them");
  }
  auto* data = static_cast<std::byte*>(managed->dl_tensor.data) + managed->dl_tensor.byte_offset;
  return {.data = data, .owner = managed};
}

void TorchDevice::free(void* owner) noexcept {
  auto* managed = static_cast<DLManagedTensorVersioned*>(owner);
  managed->deleter(managed);
}

}  // namespace velora
