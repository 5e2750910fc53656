#pragma once

#include <string>

#include "core/device/runtime.h"

namespace velora {

/// The runtime of a CUDA device, from the shared object that holds the kernels. It is loaded when
/// it is first asked for, and lives as long as the process.
/// Throws DeviceError with advice when there are no kernels or there is no device.
DeviceRuntime& cuda_runtime(int device);

/// Where cuda_runtime() finds the object from now on, if not beside this one.
void use_cuda_library(const std::string& path);

}  // namespace velora
