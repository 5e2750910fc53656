#pragma once

#include <string>

namespace velora::cuda {

/// The answers to "how many devices are there?" that have a sentence of their own, numbered as
/// cudaError_t numbers them.
enum class NoDevices : int {
  kCannotStart = 3,          // cudaErrorInitializationError
  kInsufficientDriver = 35,  // cudaErrorInsufficientDriver
  kNone = 100,               // cudaErrorNoDevice
};

/// "12.9" of 12090, as CUDA numbers versions.
inline std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// The oldest driver on which the runtime of a toolkit starts. All minor versions of a toolkit
/// start on the first driver of its major version.
inline std::string least_driver(int toolkit) {
  switch (toolkit / 1000) {
    case 12:
      return "525";
    case 13:
      return "580";
    default:
      return "of CUDA " + std::to_string(toolkit / 1000) + ".0";
  }
}

/// Why there are no CUDA devices, and what to do about it.
///
/// `status` is the answer and `said` what CUDA calls it, `driver` the CUDA version that the driver
/// is for (0 without a driver), `toolkit` the one that this code was built with.
inline std::string why_unusable(NoDevices status, const std::string& said, int driver,
                                int toolkit) {
  switch (status) {
    case NoDevices::kInsufficientDriver:
      if (driver == 0) {
        return "no NVIDIA driver was found; install driver " + least_driver(toolkit) + " or newer";
      }
      return "the NVIDIA driver is for CUDA " + version_text(driver) +
             ", and this velora was built with CUDA " + version_text(toolkit) +
             "; install driver " + least_driver(toolkit) +
             " or newer, or build velora with an older CUDA";
    case NoDevices::kNone:
      return "the NVIDIA driver finds no GPU; look at nvidia-smi and at CUDA_VISIBLE_DEVICES";
    case NoDevices::kCannotStart:
      return "CUDA does not start (" + said +
             "): a process that was forked from one that used CUDA cannot use it; start such "
             "processes with the method 'spawn'";
  }
  return "CUDA does not start: " + said;
}

}  // namespace velora::cuda
