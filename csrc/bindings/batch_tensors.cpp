#include "bindings/batch_tensors.h"

#include <string>
#include <utility>

#include "bindings/exchange_api.h"
#include "core/array_view.h"
#include "core/errors.h"
#include "core/round_up.h"

namespace py = pybind11;

namespace velora {
namespace {

/// The DLPack header of one tensor, at the front of its batch's slab.
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
    if (spec.row_bytes > (SIZE_MAX / 4 - layout.nbytes) / rows) {
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
  parts_.reserve(specs.size());  // before there is memory to lose
  std::byte* const memory =
      take_memory(pool, align(specs.size() * sizeof(TensorHeader)), layout.nbytes);
  for (const std::size_t offset : layout.offsets) parts_.push_back(memory + offset);
}

/// The slab, and in it or on the device so many bytes for the parts.
std::byte* BatchTensors::take_memory(SlabPool& pool, std::size_t headers, std::size_t bytes) {
  if (device_ == nullptr) {
    slab_ = pool.acquire(headers + bytes);
    return slab_->data() + headers;
  }
  DeviceMemory memory(*device_, bytes, "batch");
  slab_ = pool.acquire(headers);
  std::byte* const data = memory.data();
  auto* kept = new DeviceMemory(std::move(memory));
  slab_->attach(kept, [](void* companion) { delete static_cast<DeviceMemory*>(companion); });
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
  auto* header = reinterpret_cast<TensorHeader*>(slab_->data()) + i;
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
      .manager_ctx = slab_,
      .deleter = release_tensor,
      .flags = 0,
      .dl_tensor = {.data = parts_[i],
                    .device = device_ != nullptr ? device_->name() : DLDevice{kDLCPU, 0},
                    .ndim = ndim,
                    .dtype = to_dlpack_type(spec.dtype),
                    .shape = header->shape,
                    .strides = header->strides,
                    .byte_offset = 0}};
  slab_->retain();
  void* tensor = nullptr;
  if (exchange_api().managed_tensor_to_py_object_no_sync(&header->managed, &tensor) != 0) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(tensor));
}

}  // namespace velora
