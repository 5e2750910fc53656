// The emulation in the place of the CUDA object, so that Python tests run without a GPU. Built by
// tests/emulation.py.

#include <cstdint>

#include "core/device/runtime.h"
#include "emulated_runtime.h"

extern "C" __attribute__((visibility("default"))) velora::DeviceRuntime* velora_cuda_runtime(
    std::uint32_t interface, int /*device*/) {
  static auto* runtime = [] {
    auto* made = new velora::testing::EmulatedRuntime(1);
    made->run_at_once();  // Python's memory is not there for longer
    return made;
  }();
  return interface == velora::kDeviceInterface ? runtime : nullptr;
}
