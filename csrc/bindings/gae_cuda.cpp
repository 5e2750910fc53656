#include "bindings/gae_cuda.h"

#include <cstddef>
#include <string>

#include "bindings/cuda_library.h"
#include "bindings/exchange_api.h"
#include "core/returns/gae_scan.h"
#include "core/values/dtype.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

[[noreturn]] void refuse(const char* name, const char* expected) {
  throw ValueError(std::string(name) + ": expected " + expected);
}

std::uint64_t num_elements(const DLTensor& tensor) {
  std::uint64_t count = 1;
  for (int d = 0; d < tensor.ndim; ++d) count *= static_cast<std::uint64_t>(tensor.shape[d]);
  return count;
}

/// Description of one tensor. Valid as long as the tensor is.
struct Borrowed {
  std::byte* data;
  DType dtype;
  int device;
  std::uint64_t count;
  std::uint64_t steps;  // in its first dimension
};

Borrowed borrow(const char* name, py::handle tensor) {
  DLTensor view;
  if (exchange_api().dltensor_from_py_object_no_sync(tensor.ptr(), &view) != 0) {
    throw py::error_already_set();
  }
  Borrowed borrowed{};
  if (view.device.device_type != kDLCUDA || view.ndim == 0 || !is_contiguous(view) ||
      !from_dlpack_type(view.dtype, &borrowed.dtype)) {
    refuse(name, "a contiguous tensor on a CUDA device");
  }
  borrowed.data = static_cast<std::byte*>(view.data) + view.byte_offset;
  borrowed.device = view.device.device_id;
  borrowed.count = num_elements(view);
  borrowed.steps = static_cast<std::uint64_t>(view.shape[0]);
  return borrowed;
}

std::byte* borrow_like(const char* name, py::handle tensor, const Borrowed& rewards, DType* dtype) {
  const Borrowed borrowed = borrow(name, tensor);
  if (borrowed.count != rewards.count || borrowed.device != rewards.device) {
    refuse(name, "the shape and the device of rewards");
  }
  *dtype = borrowed.dtype;
  return borrowed.data;
}

std::byte* borrow_real(const char* name, py::handle tensor, const Borrowed& rewards) {
  DType dtype = rewards.dtype;
  std::byte* data = borrow_like(name, tensor, rewards, &dtype);
  if (dtype != rewards.dtype) refuse(name, "the dtype of rewards");
  return data;
}

/// Returns whether the flags are of the dtype of the rewards.
bool flags_are_real(DType dones, DType truncations, DType real) {
  const auto is_byte = [](DType dtype) { return dtype == DType::kBool || dtype == DType::kUInt8; };
  if (is_byte(dones) && is_byte(truncations)) return false;
  if (dones != real || truncations != real) refuse("dones, truncations", "the same kind of dtype");
  return true;
}

}  // namespace

void gae_cuda(const GaeTensors& tensors, double gamma, double lambda) {
  const Borrowed rewards = borrow("rewards", tensors.rewards);
  const bool is_double = rewards.dtype == DType::kFloat64;
  if (!is_double && rewards.dtype != DType::kFloat32) refuse("rewards", "float32 or float64");
  DType dones = DType::kBool;
  DType truncations = DType::kBool;
  GaeParams params = {
      .rewards = rewards.data,
      .values = borrow_real("values", tensors.values, rewards),
      .next_values = borrow_real("next_values", tensors.next_values, rewards),
      .dones = borrow_like("dones", tensors.dones, rewards, &dones),
      .truncations = borrow_like("truncations", tensors.truncations, rewards, &truncations),
      .advantages = borrow_real("advantages", tensors.advantages, rewards),
      .returns = borrow_real("returns", tensors.returns, rewards),
      .scratch = nullptr,
      .steps = rewards.steps,
      .width = rewards.count == 0 ? 0 : rewards.count / rewards.steps,
      .gamma = gamma,
      .lambda = lambda,
      .is_double = is_double,
      .flags_are_real = false};
  params.flags_are_real = flags_are_real(dones, truncations, rewards.dtype);
  if (rewards.count == 0) return;
  const Borrowed scratch = borrow("scratch", tensors.scratch);
  if (scratch.dtype != DType::kInt64 || scratch.device != rewards.device ||
      scratch.count < device::gae_scratch_words(params.steps, params.width, is_double)) {
    refuse("scratch", "gae_scratch_words() of int64 on the device of rewards");
  }
  params.scratch = reinterpret_cast<std::uint64_t*>(scratch.data);
  cuda_runtime(rewards.device).launch_gae(params, current_stream(rewards.device));
}

std::uint64_t gae_scratch_words(std::uint64_t steps, std::uint64_t width, std::uint64_t itemsize) {
  return device::gae_scratch_words(steps, width, itemsize == sizeof(double));
}

}  // namespace velora
