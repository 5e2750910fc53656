#include "bindings/batch_tensors.h"

#include <string>

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

/// Bytes from torch's allocator for a CUDA device, ordered on its current stream.
DLManagedTensorVersioned* allocate_on_device(int device, std::size_t bytes) {
  auto extent = static_cast<std::int64_t>(bytes);
  DLTensor prototype = {.data = nullptr,
                        .device = {kDLCUDA, device},
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
    throw MemoryError("batch: torch refused " + std::to_string(bytes) + " bytes: " + why);
  }
  return managed;
}

}  // namespace

BatchTensors::BatchTensors(SlabPool& pool, const std::vector<TensorSpec>& specs, BatchExtent extent,
                           std::optional<int> device)
    : specs_(specs), extent_(extent), device_(device) {
  if (extent.rows > kMaxRows / extent.steps) {
    throw MemoryError("batch_size: " + std::to_string(extent.rows) + " sequences of " +
                      std::to_string(extent.steps) + " steps do not fit into memory");
  }
  const std::size_t headers = align(specs.size() * sizeof(TensorHeader));
  std::size_t offset = device ? 0 : headers;
  std::vector<std::size_t> offsets;
  offsets.reserve(specs.size());
  parts_.reserve(specs.size());  // before there is memory to lose
  for (const TensorSpec& spec : specs) {
    offsets.push_back(offset);
    const std::size_t rows = num_rows(spec, extent);
    if (spec.row_bytes > (SIZE_MAX / 4 - offset) / rows) {
      throw MemoryError("batch_size: " + std::to_string(rows) + " rows do not fit into memory");
    }
    offset = align(offset + rows * spec.row_bytes);
  }
  std::byte* const memory =
      device ? take_device_memory(pool, *device, headers, offset) : take_slab(pool, offset);
  for (const std::size_t part : offsets) parts_.push_back(memory + part);
}

std::byte* BatchTensors::take_slab(SlabPool& pool, std::size_t bytes) {
  slab_ = pool.acquire(bytes);
  return slab_->data();
}

std::byte* BatchTensors::take_device_memory(SlabPool& pool, int device, std::size_t headers,
                                            std::size_t bytes) {
  DLManagedTensorVersioned* managed = allocate_on_device(device, bytes);
  try {
    slab_ = pool.acquire(headers);
  } catch (...) {
    managed->deleter(managed);
    throw;
  }
  slab_->attach(managed, [](void* companion) {
    auto* tensor = static_cast<DLManagedTensorVersioned*>(companion);
    tensor->deleter(tensor);
  });
  return static_cast<std::byte*>(managed->dl_tensor.data) + managed->dl_tensor.byte_offset;
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
                    .device = device_ ? DLDevice{kDLCUDA, *device_} : DLDevice{kDLCPU, 0},
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
