#include "bindings/buffer.h"

#include <pybind11/stl.h>

#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/borrowed_array.h"
#include "bindings/describe.h"
#include "core/device/store.h"
#include "core/host/store.h"
#include "core/random/distinct_draw.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

std::unique_ptr<Storage> make_storage(RowLayout layout, const BufferOptions& options) {
  const std::uint64_t seed = options.seed->value();
  if (options.storage == StorageKind::kHost || options.device == nullptr) {
    return std::make_unique<Store>(std::move(layout), options.lane_capacity, options.num_lanes,
                                   seed, options.sampler);
  }
  if (options.sampler != nullptr) {
    throw std::logic_error("a sampler that chooses on the host, for rows on a device");
  }
  return std::make_unique<DeviceStore>(std::move(layout), options.lane_capacity, options.num_lanes,
                                       seed, options.device->device(), options.storage,
                                       options.stream());
}

}  // namespace

Buffer::Buffer(std::vector<Field> fields, const py::dict& trees, BufferOptions options,
               SchemaCalls schema)
    : options_(std::move(options)),
      schema_(std::move(schema)),
      seed_(options_.seed),
      seed_version_(seed_->version()),
      storage_(make_storage(RowLayout(std::move(fields), options_.observations), options_)),
      trees_(trees, schema_.batch_names, storage_->layout().fields().size()),
      plan_(storage_->layout(), options_.n_step, options_.gamma),
      sequence_plan_(options_.has_weights() ? plan_.with(PartOf::kWeighted) : plan_),
      gather_plan_(options_.n_step > 1 ? plan_.with(PartOf::kSummed) : plan_),
      draw_plan_(options_.has_weights() ? gather_plan_.with(PartOf::kWeighted) : gather_plan_),
      writer_(*storage_, gather_lock_, options_, schema_, trees_),
      batches_(gather_lock_, options_, BatchNames(schema_.batch_type, trees_)) {}

void Buffer::end_episodes(py::handle lanes) {
  std::vector<std::uint32_t> numbers;
  if (!lanes.is_none()) {
    numbers = read_lanes(lanes, options_.num_lanes);
  } else {
    numbers.resize(options_.num_lanes);
    std::iota(numbers.begin(), numbers.end(), 0u);
  }
  gather_lock_.wait();
  void* const stream = this->stream();
  for (const std::uint32_t lane : numbers) storage_->end_episode(lane, stream);
}

void Buffer::clear() {
  gather_lock_.wait();
  storage_->clear(stream());
}

/// Fills the memory of a batch with `count` rows of the next draw.
auto Buffer::draw_rows(std::size_t count, bool replaces) {
  return [this, count, replaces](BatchMemory memory, const PartRunner* runner) {
    require_rows(count, replaces);
    const BatchTarget target = draw_plan_.target(memory, options_.n_step, columns_);
    if (replaces && !options_.replaces()) {
      storage_->sample_replaced(count, target, stream(), runner);
    } else {
      storage_->sample(count, target, stream(), runner);
    }
  };
}

bool Buffer::read_replace(py::handle replace) const {
  if (replace.is_none()) return options_.replaces();
  if (PyBool_Check(replace.ptr()) == 0) {
    throw py::type_error("replace: expected True, False or None, got " + describe(replace.ptr()));
  }
  const bool replaces = replace.ptr() == Py_True;
  if (options_.sampler != nullptr && replaces != options_.replaces()) {
    throw ValueError(std::string("replace: expected None or ") +
                     (options_.replaces() ? "True" : "False") + " for the sampler, got " +
                     (replaces ? "True" : "False"));
  }
  return replaces;
}

py::object Buffer::sample(py::handle batch_size, py::handle out, py::handle replace) {
  settle_seed();
  const std::size_t count = read_size(batch_size, "batch_size");
  const bool replaces = read_replace(replace);
  require_rows(count, replaces);
  auto batch = py::reinterpret_borrow<py::object>(out);
  if (out.is_none()) {
    batch = batches_.make(draw_plan_, {.rows = count}, draw_rows(count, replaces));
  } else {
    batches_.write(draw_plan_, {.rows = count}, out, draw_rows(count, replaces));
  }
  warn();
  return batch;
}

void Buffer::warn() {
  if (options_.sampler == nullptr) return;
  const char* const warning = options_.sampler->warning();
  if (warning != nullptr && PyErr_WarnEx(PyExc_UserWarning, warning, 1) != 0) {
    throw py::error_already_set();
  }
}

void Buffer::require_rows(std::size_t count, bool replaces) const {
  if (replaces && size() > 0) return check_draw(count, kMaxDraw);
  if (count <= size()) return;
  throw ValueError("batch_size: expected at most " + std::to_string(size()) +
                   ", the number of experiences in the buffer, got " + std::to_string(count));
}

py::object Buffer::gather(py::handle indices) {
  const bool rows_on_device = options_.device != nullptr && options_.storage != StorageKind::kHost;
  const py::object there = rows_on_device
                               ? prepare_on_device(indices.ptr(), DType::kInt64, *options_.device)
                               : py::object();
  const auto look_there = [&] {
    return look_on_device(there.ptr(), DType::kInt64, *options_.device, "indices");
  };
  BorrowedArray array;
  if (!there) array.prepare(indices.ptr(), "indices");
  const ArrayView view = there ? look_there() : array.look("indices");
  if (view.ndim != 1 && view.ndim != 2) {
    throw ValueError("indices: expected ints (B,) or (B, L), got " + describe(indices.ptr()));
  }
  std::vector<std::int64_t> packed;
  if (!there) packed = read_indices(view);
  const auto count = static_cast<std::size_t>(view.num_elements());
  BatchExtent extent = {.rows = static_cast<std::size_t>(view.shape[0])};
  if (view.ndim == 2) {
    extent.steps = static_cast<std::size_t>(view.shape[1]);
    extent.is_sequences = true;
  }
  return batches_.make(gather_plan_, extent, [&](BatchMemory memory, const PartRunner* runner) {
    RowNames names = {.packed = packed.data(), .count = count};
    if (there) {
      const ArrayView now = look_there();
      if (static_cast<std::size_t>(now.num_elements()) != count) {
        throw ValueError("indices: expected " + std::to_string(count) + " during the call, got " +
                         std::to_string(now.num_elements()));
      }
      names.packed = reinterpret_cast<const std::int64_t*>(now.data);
      names.on_device = true;
    }
    const BatchTarget target = gather_plan_.target(memory, options_.n_step, columns_);
    storage_->gather(names, target, stream(), runner);
  });
}

py::object Buffer::take(std::size_t start, std::size_t count) {
  const auto require_part = [&] {
    if (count > 0 && start <= size() && count <= size() - start) return;
    throw ValueError("rows: expected a part of the " + std::to_string(size()) +
                     " that there are, got " + std::to_string(count) + " from " +
                     std::to_string(start));
  };
  require_part();
  return batches_.make(plan_, {.rows = count}, [&](BatchMemory memory, const PartRunner* runner) {
    require_part();
    storage_->take(start, count, plan_.target(memory, 1, columns_), stream(), runner);
  });
}

py::object Buffer::sample_sequences(py::handle batch_size, std::size_t length, std::size_t burn_in,
                                    const std::string& boundary,
                                    const std::vector<std::size_t>& first_fields) {
  const std::size_t count = read_size(batch_size, "batch_size");
  settle_seed();
  const SequenceSpec spec = {
      .length = length, .burn_in = burn_in, .boundary = read_boundary(boundary)};
  if (options_.sampler != nullptr && spec.boundary != SequenceBoundary::kPad) {
    throw ValueError("boundary: expected 'pad' for draws that are not uniform, got '" + boundary +
                     "'");
  }
  const auto require_starts = [&] {
    const std::uint64_t starts = storage_->count_sequences(spec, stream());
    if (count <= starts || (options_.replaces() && starts > 0)) return;
    throw ValueError("batch_size: expected at most " + std::to_string(starts) +
                     ", the number of sequences of " + std::to_string(length) +
                     " steps in the buffer (boundary='" + boundary + "'), got " +
                     std::to_string(count));
  };
  require_starts();
  const BatchPlan plan = sequence_plan_.of_sequences(first_fields);
  const BatchExtent extent = {.rows = count, .steps = burn_in + length, .is_sequences = true};
  py::object batch = batches_.make(plan, extent, [&](BatchMemory memory, const PartRunner* runner) {
    require_starts();
    const SequenceTarget target = {.steps = plan.target(memory, 1, columns_),
                                   .firsts = plan.firsts_target(memory, first_columns_)};
    storage_->sample_sequences(spec, count, target, stream(), runner);
  });
  warn();
  return batch;
}

py::tuple Buffer::batch_layout(py::handle batch_size) const {
  const BatchExtent extent = {.rows = read_size(batch_size, "batch_size")};
  const BatchLayout layout = lay_out(draw_plan_.tensors(), extent);
  py::list tensors;
  for (std::size_t i = 0; i < draw_plan_.tensors().size(); ++i) {
    const TensorSpec& spec = draw_plan_.tensors()[i];
    tensors.append(py::make_tuple(layout.offsets[i], name_of(spec.dtype),
                                  py::tuple(py::cast(shape_of(spec, extent)))));
  }
  return py::make_tuple(layout.nbytes, tensors);
}

void Buffer::sample_into(py::handle base, py::handle batch_size) {
  settle_seed();
  const std::size_t count = read_size(batch_size, "batch_size");
  const bool replaces = options_.replaces();
  require_rows(count, replaces);
  batches_.write_into(draw_plan_, {.rows = count}, base, draw_rows(count, replaces));
  warn();
}

py::object Buffer::name_batch(std::vector<py::object> tensors) const {
  return batches_.name(draw_plan_, std::move(tensors));
}

py::object Buffer::update_priorities(py::handle indices, py::handle priorities) {
  BorrowedArray arrays[2];
  arrays[0].prepare(indices.ptr(), "indices");
  arrays[1].prepare(priorities.ptr(), "priorities");
  const std::vector<RowId> rows = read_row_ids(arrays[0].look("indices"));
  const std::vector<float> values =
      read_column(arrays[1].look("priorities"), rows.size(), "priorities");
  return batches_.make_mask(rows.size(), [&](bool* updated) {
    storage_->update_priorities(rows, values, {updated, rows.size()}, stream());
  });
}

py::object Buffer::update(py::handle indices, const py::dict& fields) {
  return writer_.update(indices, fields, [this](std::size_t rows, const auto& fill) {
    return batches_.make_mask(rows, fill);
  });
}

std::vector<std::uint64_t> Buffer::lane_lengths() const {
  const RowsView view = storage_->view();
  std::vector<std::uint64_t> lengths(view.num_lanes);
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) lengths[lane] = view.size(lane);
  return lengths;
}

std::uint64_t Buffer::count_pushed() const {
  const RowsView view = storage_->view();
  std::uint64_t rows = 0;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) rows += view.end(lane);
  return rows;
}

}  // namespace velora
