#include "bindings/batch_tensors.h"

#include <memory>
#include <string>
#include <utility>

#include "bindings/exchange_api.h"
#include "core/values/array_view.h"
#include "core/values/errors.h"
#include "core/values/round_up.h"

namespace py = pybind11;

namespace velora {
namespace {

/// The DLPack header of one tensor, at the front of its slab.
struct TensorHeader {
  DLManagedTensorVersioned managed;
  std::int64_t shape[kMaxDims + 1];  // one more for the steps of sequences
  std::int64_t strides[kMaxDims + 1];
};

constexpr std::size_t kTensorAlignment = 64;
constexpr std::size_t kMaxRows = std::size_t{1} << 48;

std::size_t align(std::size_t offset) { return round_up(offset, kTensorAlignment); }

void release_tensor(DLManagedTensorVersioned* managed) {
  static_cast<Slab*>(managed->manager_ctx)->release();
}

}  // namespace

BatchLayout lay_out(const std::vector<TensorSpec>& specs, BatchExtent extent) {
  if (extent.rows > kMaxRows / extent.steps) {
    throw MemoryError("batch_size: " + std::to_string(extent.rows) + " sequences of " +
                      std::to_string(extent.steps) + " steps do not fit into memory");
  }
  BatchLayout layout = {.offsets = {}, .nbytes = 0};
  layout.offsets.reserve(specs.size());
  for (const TensorSpec& spec : specs) {
    layout.offsets.push_back(layout.nbytes);
    const std::size_t rows = num_rows(spec, extent);
    if (rows > 0 && spec.row_bytes > (SIZE_MAX / 4 - layout.nbytes) / rows) {
      throw MemoryError("batch_size: " + std::to_string(rows) + " rows do not fit into memory");
    }
    layout.nbytes = align(layout.nbytes + rows * spec.row_bytes);
  }
  return layout;
}

BatchTensors::BatchTensors(SlabPool& pool, const std::vector<TensorSpec>& specs, BatchExtent extent,
                           TorchDevice* device)
    : specs_(specs), extent_(extent), device_(device) {
  const BatchLayout layout = lay_out(specs, extent);
  if (layout.nbytes >= kLargeBatch) {
    split(pool);
    return;
  }
  const std::size_t headers = align(specs.size() * sizeof(TensorHeader));
  slab_ = pool.acquire(headers + (device == nullptr ? layout.nbytes : 0));
  parts_ = layout.addresses(attach_memory(*slab_, headers, layout.nbytes));
}

/// Gives large parts slabs of their own, each with its header.
void BatchTensors::split(SlabPool& pool) {
  const auto bytes_of = [&](const TensorSpec& spec) {
    return num_rows(spec, extent_) * spec.row_bytes;
  };
  std::size_t small_bytes = 0;
  for (const TensorSpec& spec : specs_) {
    if (bytes_of(spec) < kLargePart) small_bytes += align(bytes_of(spec));
  }
  const auto on_host = [&](std::size_t bytes) { return device_ == nullptr ? bytes : 0; };
  const std::size_t headers = align(specs_.size() * sizeof(TensorHeader));
  slab_ = pool.acquire(headers + on_host(small_bytes));
  std::byte* small = attach_memory(*slab_, headers, small_bytes);
  own_.resize(specs_.size());
  parts_.reserve(specs_.size());
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    const std::size_t bytes = bytes_of(specs_[i]);
    if (bytes < kLargePart) {
      parts_.push_back(small);
      small += align(bytes);
      continue;
    }
    const std::size_t header = align(sizeof(TensorHeader));
    own_[i] = pool.acquire_beside(header + on_host(bytes));
    parts_.push_back(attach_memory(*own_[i], header, bytes));
  }
}

/// Where `bytes` lie that go with a slab: behind its headers, or on the device.
std::byte* BatchTensors::attach_memory(Slab& slab, std::size_t headers, std::size_t bytes) {
  if (device_ == nullptr || bytes == 0) return slab.data() + headers;
  auto kept = std::make_unique<DeviceMemory>(*device_, bytes, "batch");
  std::byte* const data = kept->data();
  slab.attach(kept.release(),
              [](void* companion) { delete static_cast<DeviceMemory*>(companion); });
  return data;
}

std::vector<std::int64_t> shape_of(const TensorSpec& spec, BatchExtent extent) {
  std::vector<std::int64_t> shape = {static_cast<std::int64_t>(extent.rows)};
  if (extent.is_sequences && spec.each_step) {
    shape.push_back(static_cast<std::int64_t>(extent.steps));
  }
  shape.insert(shape.end(), spec.row_shape.begin(), spec.row_shape.end());
  return shape;
}

py::object BatchTensors::tensor(std::size_t i) {
  const TensorSpec& spec = specs_[i];
  const bool is_apart = !own_.empty() && own_[i] != nullptr;
  Slab* const slab = is_apart ? own_[i].get() : slab_.get();
  auto* header = reinterpret_cast<TensorHeader*>(slab->data()) + (is_apart ? 0 : i);
  std::int32_t ndim = 0;
  header->shape[ndim++] = static_cast<std::int64_t>(extent_.rows);
  const bool has_steps = extent_.is_sequences && spec.each_step;
  if (has_steps) header->shape[ndim++] = static_cast<std::int64_t>(extent_.steps);
  for (const std::int64_t size : spec.row_shape) header->shape[ndim++] = size;
  std::int64_t stride = 1;
  for (int d = ndim - 1; d >= 0; --d) {
    header->strides[d] = stride;
    stride *= header->shape[d];
  }
  header->managed = {
      .version = {1, 0},  // what is used of it; torch asks for the major version only
      .manager_ctx = slab,
      .deleter = release_tensor,
      .flags = 0,
      .dl_tensor = {.data = parts_[i],
                    .device = device_ != nullptr ? device_->name() : DLDevice{kDLCPU, 0},
                    .ndim = ndim,
                    .dtype = to_dlpack_type(spec.dtype),
                    .shape = header->shape,
                    .strides = header->strides,
                    .byte_offset = 0}};
  slab->retain();
  void* tensor = nullptr;
  if (exchange_api().managed_tensor_to_py_object_no_sync(&header->managed, &tensor) != 0) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(tensor));
}

}  // namespace velora
