// The torch operators of velora: stateless functions on tensors, through torch's stable ABI. The
// object refers to C shims only, so one build serves every torch from the target version on.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>

#include "core/returns/gae.h"
#include "core/values/errors.h"

namespace velora {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::string shape_of(const Tensor& tensor) {
  std::ostringstream text;
  text << '(';
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    text << (d > 0 ? ", " : "") << tensor.size(d);
  }
  text << ')';
  return text.str();
}

[[noreturn]] void refuse(const char* name, const std::string& expected, const std::string& got) {
  throw ValueError(std::string(name) + ": expected " + expected + ", got " + got);
}

bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (std::int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

bool is_real(ScalarType dtype) { return dtype == ScalarType::Float || dtype == ScalarType::Double; }

bool is_byte(ScalarType dtype) { return dtype == ScalarType::Bool || dtype == ScalarType::Byte; }

void check_device_and_shape(const char* name, const Tensor& tensor, const Tensor& rewards) {
  if (!tensor.is_cpu()) refuse(name, "a tensor on the CPU", "one on another device");
  if (!same_shape(tensor, rewards)) {
    refuse(name, "the shape of rewards, " + shape_of(rewards), shape_of(tensor));
  }
}

void check_real(const char* name, const Tensor& tensor, const Tensor& rewards) {
  check_device_and_shape(name, tensor, rewards);
  if (tensor.scalar_type() != rewards.scalar_type()) {
    refuse(name, std::string("the dtype of rewards, ") + toString(rewards.scalar_type()),
           toString(tensor.scalar_type()));
  }
}

void check_flag(const char* name, const Tensor& tensor, const Tensor& rewards) {
  check_device_and_shape(name, tensor, rewards);
  const ScalarType dtype = tensor.scalar_type();
  if (!is_byte(dtype) && !is_real(dtype)) {
    refuse(name, "bool, uint8, float32 or float64", toString(dtype));
  }
}

Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Tensor dense_flags(const Tensor& tensor) {
  return dense(is_byte(tensor.scalar_type()) ? tensor
                                             : torch::stable::to(tensor, ScalarType::Bool));
}

// A tensor like one on the CPU that is dense. Made past the dispatcher, which would take longer
// than all else of a small call.
Tensor uninitialised_like(const Tensor& tensor) {
  std::int32_t dtype = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(tensor.dim(), tensor.sizes().data(), tensor.strides().data(), dtype,
                               aoti_torch_device_type_cpu(), /*device_index=*/0, &made));
  return Tensor(made);
}

template <typename T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

struct GaeTensors {
  Tensor rewards, values, next_values, dones, truncations;  // dense; flags of one dtype
};

template <typename Real, typename Flag>
std::tuple<Tensor, Tensor> gae_as(const GaeTensors& in, double gamma, double lambda) {
  Tensor advantages = uninitialised_like(in.rewards);
  Tensor returns = uninitialised_like(in.rewards);
  const auto steps = static_cast<std::size_t>(in.rewards.size(0));
  const auto width = steps == 0 ? 0 : static_cast<std::size_t>(in.rewards.numel()) / steps;
  const GaeInput<Real, Flag> input{.rewards = data_of<Real>(in.rewards),
                                   .values = data_of<Real>(in.values),
                                   .next_values = data_of<Real>(in.next_values),
                                   .dones = data_of<Flag>(in.dones),
                                   .truncations = data_of<Flag>(in.truncations),
                                   .steps = steps,
                                   .width = width};
  gae(input, gamma, lambda, static_cast<Real*>(advantages.mutable_data_ptr()),
      static_cast<Real*>(returns.mutable_data_ptr()));
  return {std::move(advantages), std::move(returns)};
}

// Flags of the dtype of the rewards are read as they are. All others as bytes, which costs those
// that are none a pass of their own.
template <typename Real>
std::tuple<Tensor, Tensor> gae_of(GaeTensors in, double gamma, double lambda) {
  const ScalarType real = in.rewards.scalar_type();
  if (in.dones.scalar_type() == real && in.truncations.scalar_type() == real) {
    in.dones = dense(in.dones);
    in.truncations = dense(in.truncations);
    return gae_as<Real, Real>(in, gamma, lambda);
  }
  in.dones = dense_flags(in.dones);
  in.truncations = dense_flags(in.truncations);
  return gae_as<Real, std::uint8_t>(in, gamma, lambda);
}

std::tuple<Tensor, Tensor> gae_cpu(const Tensor& rewards, const Tensor& values,
                                   const Tensor& next_values, const Tensor& dones,
                                   const Tensor& truncations, double gamma, double lam) {
  if (rewards.dim() == 0) refuse("rewards", "a time axis, (T, ...)", "a scalar");
  if (!is_real(rewards.scalar_type())) {
    refuse("rewards", "float32 or float64", toString(rewards.scalar_type()));
  }
  check_device_and_shape("rewards", rewards, rewards);
  check_real("values", values, rewards);
  check_real("next_values", next_values, rewards);
  check_flag("dones", dones, rewards);
  check_flag("truncations", truncations, rewards);
  GaeTensors in{dense(rewards), dense(values), dense(next_values), dones, truncations};
  return rewards.scalar_type() == ScalarType::Float ? gae_of<float>(std::move(in), gamma, lam)
                                                    : gae_of<double>(std::move(in), gamma, lam);
}

}  // namespace
}  // namespace velora

STABLE_TORCH_LIBRARY(velora, m) {
  m.def(
      "gae(Tensor rewards, Tensor values, Tensor next_values, Tensor dones, Tensor truncations, "
      "float gamma, float lam) -> (Tensor advantages, Tensor returns)");
}

STABLE_TORCH_LIBRARY_IMPL(velora, CPU, m) { m.impl("gae", TORCH_BOX(&velora::gae_cpu)); }
