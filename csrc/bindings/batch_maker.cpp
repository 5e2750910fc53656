#include "bindings/batch_maker.h"

#include <cstdint>
#include <string>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/describe.h"
#include "bindings/tensor_view.h"
#include "bindings/torch_threads.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

// Batches from here on are gathered without the GIL, and by several threads: below, to wake them
// costs about what they save.
constexpr std::size_t kLargeBatch = std::size_t{512} << 10;

}  // namespace

BatchMaker::BatchMaker(GatherLock& lock, const BufferOptions& options, BatchNames names)
    : gather_lock_(lock),
      options_(options),
      names_(std::move(names)),
      copies_(options.device != nullptr && options.storage == StorageKind::kHost
                  ? std::make_unique<CopyRing>(options.device->runtime())
                  : nullptr),
      slabs_(SlabPool::create()) {}

py::object BatchMaker::make(const BatchPlan& plan, BatchExtent extent, const FillBatch& fill) {
  BatchTensors tensors(*slabs_, plan.tensors(), extent, options_.device);
  std::vector<py::object> parts;
  parts.reserve(plan.tensors().size());
  for (std::size_t i = 0; i < plan.tensors().size(); ++i) parts.push_back(tensors.tensor(i));
  // Filled after that: making tensors can run a garbage collection, and with it any code.
  run_gather(plan, extent, tensors.in_one_piece(), [&] { return tensors.memory(); }, fill);
  return names_.name(plan, std::move(parts));
}

py::object BatchMaker::make_mask(std::size_t rows, const std::function<void(bool*)>& fill) {
  const std::vector<TensorSpec> specs = {{.dtype = DType::kBool, .row_shape = {}, .row_bytes = 1}};
  BatchTensors tensors(*slabs_, specs, {.rows = rows}, nullptr);
  py::object mask = tensors.tensor(0);
  gather_lock_.wait();
  fill(reinterpret_cast<bool*>(tensors.memory()[0]));
  return mask;
}

void BatchMaker::write(const BatchPlan& plan, BatchExtent extent, py::handle out,
                       const FillBatch& fill) {
  const std::vector<py::object> tensors = names_.tensors_of(plan, out);
  std::vector<std::byte*> memory(tensors.size());
  const auto locate = [&] {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorSpec& spec = plan.tensors()[i];
      const std::vector<std::int64_t> shape = shape_of(spec, extent);
      memory[i] = writable_tensor(tensors[i].ptr(), spec.dtype, shape, options_.device);
      if (memory[i] != nullptr) continue;
      throw ValueError("out." + names_.label(plan, i) + ": expected a contiguous " +
                       name_of(spec.dtype) + " tensor of shape " + shape_text(shape) + " on the " +
                       (options_.device == nullptr ? "CPU" : "buffer's device") + ", got " +
                       describe(tensors[i].ptr()));
    }
    require_apart(plan, extent, memory);
    return BatchMemory(memory);
  };
  run_gather(plan, extent, false, locate, fill);
}

void BatchMaker::write_into(const BatchPlan& plan, BatchExtent extent, py::handle base,
                            const FillBatch& fill) {
  const BatchLayout layout = lay_out(plan.tensors(), extent);
  const std::int64_t shape[] = {static_cast<std::int64_t>(layout.nbytes)};
  std::vector<std::byte*> parts;
  const auto locate = [&] {
    std::byte* memory = writable_tensor(base.ptr(), DType::kUInt8, shape, options_.device);
    if (memory == nullptr) {
      throw ValueError("base: expected a contiguous uint8 tensor of shape " + shape_text(shape) +
                       " on the buffer's device, got " + describe(base.ptr()));
    }
    parts = layout.addresses(memory);
    return BatchMemory(parts);
  };
  run_gather(plan, extent, true, locate, fill);
}

py::object BatchMaker::name(const BatchPlan& plan, std::vector<py::object> tensors) const {
  const std::size_t count = plan.tensors().size();
  if (tensors.size() != count) {
    throw ValueError("tensors: expected " + std::to_string(count) + ", got " +
                     std::to_string(tensors.size()));
  }
  return names_.name(plan, std::move(tensors));
}

void BatchMaker::require_apart(const BatchPlan& plan, BatchExtent extent,
                               BatchMemory memory) const {
  const auto end = [&](std::size_t i) {
    return memory[i] + num_rows(plan.tensors()[i], extent) * plan.tensors()[i].row_bytes;
  };
  for (std::size_t i = 0; i < memory.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (end(i) <= memory[j] || end(j) <= memory[i]) continue;
      throw ValueError("out." + names_.label(plan, i) +
                       ": expected a tensor of its own, got one that shares memory with " +
                       names_.label(plan, j));
    }
  }
}

void BatchMaker::run_gather(const BatchPlan& plan, BatchExtent extent, bool in_one_piece,
                            const Locate& locate, const FillBatch& fill) {
  if (options_.device == nullptr) return gather_on_host(plan, extent, locate, fill);
  if (copies_ != nullptr) return gather_and_copy(plan, extent, in_one_piece, locate, fill);
  fill(locate(), nullptr);
}

void BatchMaker::gather_on_host(const BatchPlan& plan, BatchExtent extent, const Locate& locate,
                                const FillBatch& fill) {
  if (plan.row_bytes() * extent.rows * extent.steps < kLargeBatch) {
    gather_lock_.wait();
    fill(locate(), nullptr);
    return;
  }
  const UnlockedRunner runner(gather_lock_, torch_threads());
  gather_lock_.wait_to_gather();
  fill(locate(), &runner);
}

void BatchMaker::gather_and_copy(const BatchPlan& plan, BatchExtent extent, bool in_one_piece,
                                 const Locate& locate, const FillBatch& fill) {
  if (options_.device->runtime().is_capturing(options_.stream())) {
    throw DeviceError(
        "sample: expected a stream that runs, got one that a CUDA graph captures; rows on the host "
        "cannot be part of it: use storage='cuda' or 'pinned'");
  }
  locate();  // before anything is drawn
  const BatchLayout layout = lay_out(plan.tensors(), extent);
  std::vector<std::byte*> parts;
  const auto locate_copy = [&] {
    parts = layout.addresses(copies_->take(layout.nbytes));
    return BatchMemory(parts);
  };
  gather_on_host(plan, extent, locate_copy, fill);
  queue_copies(plan, extent, layout, locate(), in_one_piece);  // other code may have run since
}

void BatchMaker::queue_copies(const BatchPlan& plan, BatchExtent extent, const BatchLayout& layout,
                              BatchMemory memory, bool in_one_piece) {
  void* const stream = options_.stream();
  if (in_one_piece) {
    copies_->copy(memory[0], 0, layout.nbytes, stream);
  } else {
    for (std::size_t i = 0; i < memory.size(); ++i) {
      const std::size_t bytes = num_rows(plan.tensors()[i], extent) * plan.tensors()[i].row_bytes;
      copies_->copy(memory[i], layout.offsets[i], bytes, stream);
    }
  }
  copies_->send(stream);
}

}  // namespace velora
