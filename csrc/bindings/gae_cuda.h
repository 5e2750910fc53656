#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace velora {

/// The tensors of one estimate, all contiguous on one CUDA device.
struct GaeTensors {
  pybind11::handle rewards, values, next_values;  // float32 or float64
  pybind11::handle dones, truncations;            // of that dtype too, or of one byte each
  pybind11::handle advantages, returns;           // like rewards
  pybind11::handle scratch;  // int64, gae_scratch_words() with anything in them
};

/// Queues the estimate on torch's current stream for the device. Waits for nothing.
/// Throws ValueError for a tensor that is not as it should be, DeviceError where CUDA cannot be
/// used.
void gae_cuda(const GaeTensors& tensors, double gamma, double lambda);

/// How much scratch memory an estimate of rewards (steps, width) needs.
std::uint64_t gae_scratch_words(std::uint64_t steps, std::uint64_t width, std::uint64_t itemsize);

}  // namespace velora
