#include "bindings/buffer.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/describe.h"
#include "bindings/torch_threads.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

/// What read_batch makes an array of.
bool is_listed(PyObject* lanes) {
  return PyList_Check(lanes) != 0 || PyTuple_Check(lanes) != 0 || PyRange_Check(lanes) != 0;
}

constexpr std::size_t kFloat = sizeof(float);
// Batches from here on are gathered without the GIL, and by several threads: below, to wake them
// costs about what they save.
constexpr std::size_t kLargeBatch = std::size_t{512} << 10;

}  // namespace

RowReader& Buffer::idle_reader() {
  if (idle_readers_.empty()) {
    idle_readers_.push_back(std::make_unique<RowReader>(
        storage_->layout(), trees_, storage_->takes_columns() ? options_.device : nullptr));
  }
  return *idle_readers_.back();
}

/// A reader for one call. Reading can run Python code (a property, a copy from a device) in which
/// another thread, or the same one, enters the buffer again: each call has a reader of its own.
class Buffer::ReaderLease {
 public:
  explicit ReaderLease(Buffer& buffer) : buffer_(buffer) {
    buffer_.idle_reader();
    reader_ = std::move(buffer.idle_readers_.back());
    buffer.idle_readers_.pop_back();
  }
  ~ReaderLease() {
    reader_->release();
    buffer_.idle_readers_.push_back(std::move(reader_));
  }
  ReaderLease(const ReaderLease&) = delete;
  ReaderLease& operator=(const ReaderLease&) = delete;

  RowReader* operator->() { return reader_.get(); }
  RowReader& operator*() { return *reader_; }

 private:
  Buffer& buffer_;
  std::unique_ptr<RowReader> reader_;
};

Buffer::Buffer(std::vector<Field> fields, const py::dict& trees, const BufferOptions& options,
               SchemaCalls schema)
    : seed_(options.seed),
      seed_version_(seed_->version()),
      storage_(make_row_storage(RowLayout(std::move(fields), options.observations),
                                options.lane_capacity, options.num_lanes, seed_->value(),
                                options.place, options.device)),
      copies_(options.device != nullptr && options.place == StoragePlace::kHost
                  ? std::make_unique<CopyRing>(options.device->runtime())
                  : nullptr),
      options_(options),
      trees_(trees, schema.batch_names, storage_->layout().fields().size()),
      names_(schema.batch_type, trees_),
      schema_(std::move(schema)),
      lanes_name_(intern("lanes")),
      plan_(plan_batch()),
      known_type_(idle_reader().names()),
      slabs_(SlabPool::create()) {
  for (const std::string& name : schema_.batch_names) batch_names_.push_back(intern(name));
  const TensorSpec& reward = plan_.specs.at(plan_.reward);
  if (options_.n_step > 1 && (reward.dtype != DType::kFloat32 || reward.row_bytes != kFloat)) {
    throw ValueError("reward: expected one float32 to sum up over n_step");
  }
}

Buffer::Plan Buffer::plan_batch() const {
  Plan plan;
  for (const Field& field : storage_->layout().fields()) {
    if (field.role == Role::kReward) plan.reward = plan.specs.size();
    plan.specs.push_back({field.dtype, field.shape, field.nbytes});
  }
  plan.dones = plan.specs.size();
  plan.specs.push_back({DType::kFloat32, {1}, kFloat});                      // dones
  plan.specs.push_back({DType::kFloat32, {1}, kFloat});                      // truncations
  plan.specs.push_back({DType::kInt64, {}, sizeof(std::int64_t)});           // indices
  if (options_.gamma) plan.specs.push_back({DType::kFloat32, {1}, kFloat});  // discounts
  for (const TensorSpec& spec : plan.specs) plan.row_bytes += spec.row_bytes;
  return plan;
}

Buffer::Plan Buffer::plan_sequences(const std::vector<std::size_t>& first_fields) const {
  Plan plan = plan_;
  for (const std::size_t field : first_fields) {
    if (field >= plan.dones) {
      throw ValueError("first_fields: expected numbers of fields, less than " +
                       std::to_string(plan.dones) + ", got " + std::to_string(field));
    }
    plan.specs[field].each_step = false;
  }
  plan.specs.push_back({DType::kFloat32, {1}, kFloat});  // mask
  plan.specs.push_back({DType::kFloat32, {1}, kFloat});  // is_first
  return plan;
}

void Buffer::require_room(const LaneOrder& lanes, std::size_t rows) const {
  if (options_.overwrite) return;
  const bool even = lanes.lanes == nullptr && rows % options_.num_lanes == 0;
  if (even && storage_->fullest() + rows / options_.num_lanes <= options_.lane_capacity) return;
  const RowsView view = storage_->view();
  std::vector<std::uint64_t> added(rows > 1 ? options_.num_lanes : 0);
  std::uint32_t lane = lanes.before_first();
  for (std::size_t i = 0; i < rows; ++i) {
    lane = lanes.next(i, lane);
    const std::uint64_t before = rows > 1 ? added[lane]++ : 0;
    if (before < options_.lane_capacity - view.size(lane)) continue;
    refuse_full(lane, view.size(lane), rows);
  }
}

void Buffer::refuse_full(std::uint32_t lane, std::uint64_t size, std::size_t rows) const {
  const bool alone = options_.num_lanes == 1;
  throw BufferError((alone ? "the buffer" : "lane " + std::to_string(lane)) +
                    " is full: it holds " + std::to_string(size) + " of " +
                    std::to_string(options_.lane_capacity) + " experiences and has no room for " +
                    (alone ? std::to_string(rows) : "so many") +
                    " more; call sample() and then empty()");
}

void Buffer::push(py::handle experience, py::handle lane) {
  // All that can run code comes before the lock, and what is only looked at after it.
  const std::uint32_t number = read_lane(lane, options_.num_lanes);
  const LaneOrder order = {.lanes = &number, .num_lanes = options_.num_lanes};
  if (!known_type_.is(Py_TYPE(experience.ptr()))) learn_type(experience);
  HeldValues values;  // held to the end: what is peeked looks into them
  if (known_type_.read(experience.ptr(), values)) {
    gather_lock_.wait();
    if (idle_reader().peek_row(values)) {
      require_room(order, 1);
      return storage_->append(order, idle_reader().source(), 1);
    }
  }
  ReaderLease reader(*this);
  reader->prepare_row(experience.ptr(), values);
  gather_lock_.wait();
  reader->look();
  append(*reader, order, {number, 1});
}

void Buffer::learn_type(py::handle experience) {
  const py::object type = py::type::of(experience);  // held: what runs can give it another
  schema_.check_type(type);
  known_type_.learn(reinterpret_cast<PyTypeObject*>(type.ptr()));
}

void Buffer::append(RowReader& reader, const LaneOrder& order, LaneRange lanes) {
  const std::size_t rows = reader.count();
  require_room(order, rows);
  if (reader.has_device_rows()) {
    return storage_->append_columns(lanes, rows / lanes.count, reader.mixed_source());
  }
  if (!reader.in_parts()) return storage_->append(order, reader.source(), rows);
  storage_->reserve(rows);  // nothing fails once a part is stored
  reader.each_part([&](std::size_t first, const RowSource& source, std::size_t count) {
    storage_->append(order.from(first), source, count);
  });
}

void Buffer::extend(const CallArguments& call) {
  ReaderLease reader(*this);
  std::vector<PyObject*> columns(reader->names().size());
  py::handle lanes = py::none();
  if (find_columns(call, columns, lanes)) return append_rows(*reader, columns, lanes);
  read_and_extend(call, *reader, columns);
}

/// Everything but arrays by their names is Python's to understand.
void Buffer::read_and_extend(const CallArguments& call, RowReader& reader,
                             std::vector<PyObject*>& columns) {
  const auto arguments = py::reinterpret_steal<py::object>(
      PyObject_Vectorcall(schema_.read_batch.ptr(), call.values, call.positional, call.names));
  if (!arguments) throw py::error_already_set();
  const auto batch = py::cast<py::tuple>(arguments);
  const py::object parts = batch[0];
  if (parts.is_none()) return;  // a buffer that was never filled
  if (PyDict_Check(parts.ptr()) == 0) return extend_from(py::cast<Buffer&>(parts), batch[1]);
  const auto named = py::reinterpret_borrow<py::dict>(parts);
  std::vector<py::object> held(columns.size());  // whoever finds the dict can empty it
  for (std::size_t i = 0; i < columns.size(); ++i) {
    columns[i] = PyDict_GetItemWithError(named.ptr(), reader.names()[i].ptr());
    if (columns[i] == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    held[i] = py::reinterpret_borrow<py::object>(columns[i]);
  }
  append_rows(reader, columns, batch[1]);
}

bool Buffer::find_columns(const CallArguments& call, std::vector<PyObject*>& columns,
                          py::handle& lanes) const {
  if (call.positional > 0) return false;
  const std::vector<py::object>& names = batch_names_;
  for (std::size_t i = 0; i < call.named(); ++i) {
    // Names that stand in a program are interned: they are the same where they are equal.
    const auto known = std::find_if(names.begin(), names.end(), [&](const py::object& name) {
      return name.ptr() == call.name(i);
    });
    if (known != names.end()) {
      columns[static_cast<std::size_t>(known - names.begin())] = call.value(i);
    } else if (call.name(i) == lanes_name_.ptr() && !is_listed(call.value(i))) {
      lanes = call.value(i);
    } else {
      return false;
    }
  }
  const auto truncated = columns.end() - 1;  // which may be missing
  return std::find(columns.begin(), truncated, nullptr) == truncated;
}

void Buffer::append_rows(RowReader& reader, const std::vector<PyObject*>& columns,
                         py::handle lanes) {
  const bool in_turn = lanes.is_none();
  const std::vector<std::uint32_t> numbers =
      in_turn ? std::vector<std::uint32_t>() : read_lanes(lanes, options_.num_lanes);
  gather_lock_.wait();
  HeldValues leaves;
  if (!reader.peek_rows(columns, leaves)) {
    reader.prepare_rows(columns, !in_turn);
    gather_lock_.wait();
    reader.look();
  }
  const std::size_t rows = reader.count();
  if (in_turn && rows % options_.num_lanes != 0) {
    throw ValueError("batch: expected a multiple of " + std::to_string(options_.num_lanes) +
                     " rows, one for each environment and step, got " + std::to_string(rows) +
                     "; pass lanes= where environments do not step together");
  }
  if (!in_turn && numbers.size() != rows) {
    throw ValueError("lanes: expected an int for each of " + std::to_string(rows) + " rows, got " +
                     std::to_string(numbers.size()));
  }
  const LaneOrder order = {.lanes = in_turn ? nullptr : numbers.data(),
                           .num_lanes = options_.num_lanes};
  append(reader, order, {0, options_.num_lanes});
}

void Buffer::end_episodes(py::handle lanes) {
  if (!lanes.is_none()) {
    const std::vector<std::uint32_t> numbers = read_lanes(lanes, options_.num_lanes);
    gather_lock_.wait();
    for (const std::uint32_t lane : numbers) storage_->end_episode(lane);
    return;
  }
  gather_lock_.wait();
  for (std::uint32_t lane = 0; lane < options_.num_lanes; ++lane) storage_->end_episode(lane);
}

void Buffer::clear() {
  gather_lock_.wait();
  storage_->clear();
}

/// What fills the memory of a batch with so many rows of the next draw.
auto Buffer::draw_rows(std::size_t count) {
  return [this, count](BatchMemory memory, const PartRunner* runner) {
    require_rows(count);
    storage_->sample(count, target_of(plan_, memory, options_.n_step, columns_), runner);
    storage_->lanes().count_draw();
  };
}

py::object Buffer::sample(py::handle batch_size, py::handle out) {
  settle_seed();
  const std::size_t count = read_size(batch_size, "batch_size");
  require_rows(count);
  if (out.is_none()) return make_batch(plan_, {.rows = count}, draw_rows(count));
  write_batch(plan_, {.rows = count}, out, draw_rows(count));
  return py::reinterpret_borrow<py::object>(out);
}

void Buffer::require_rows(std::size_t count) const {
  if (count <= size()) return;
  throw ValueError("batch_size: expected at most " + std::to_string(size()) +
                   ", the number of experiences in the buffer, got " + std::to_string(count));
}

py::object Buffer::take(std::size_t start, std::size_t count) {
  const auto require_part = [&] {
    if (count > 0 && start <= size() && count <= size() - start) return;
    throw ValueError("rows: expected a part of the " + std::to_string(size()) +
                     " that there are, got " + std::to_string(count) + " from " +
                     std::to_string(start));
  };
  require_part();
  return make_batch(plan_, {.rows = count}, [&](BatchMemory memory, const PartRunner* runner) {
    require_part();
    storage_->take(start, count, target_of(plan_, memory, 1, columns_), runner);
  });
}

py::object Buffer::sample_sequences(py::handle batch_size, std::size_t length, std::size_t burn_in,
                                    const std::string& boundary,
                                    const std::vector<std::size_t>& first_fields) {
  const std::size_t count = read_size(batch_size, "batch_size");
  settle_seed();
  const SequenceSpec spec = {
      .length = length, .burn_in = burn_in, .boundary = read_boundary(boundary)};
  const auto require_starts = [&] {
    const std::uint64_t starts = storage_->count_sequences(spec);
    if (count <= starts) return;
    throw ValueError("batch_size: expected at most " + std::to_string(starts) +
                     ", the number of sequences of " + std::to_string(length) +
                     " steps in the buffer (boundary='" + boundary + "'), got " +
                     std::to_string(count));
  };
  require_starts();
  const Plan plan = plan_sequences(first_fields);
  const BatchExtent extent = {.rows = count, .steps = burn_in + length, .is_sequences = true};
  return make_batch(plan, extent, [&](BatchMemory memory, const PartRunner* runner) {
    require_starts();
    SequenceTarget target = {.steps = target_of(plan, memory, 1, columns_),
                             .mask = reinterpret_cast<float*>(memory[plan.specs.size() - 2]),
                             .firsts = {}};
    target.steps.is_first = reinterpret_cast<float*>(memory[plan.specs.size() - 1]);
    first_columns_.clear();
    add_columns(plan, memory, false, 1, first_columns_);
    target.firsts.columns = first_columns_.data();
    target.firsts.num_columns = static_cast<std::uint32_t>(first_columns_.size());
    storage_->sample_sequences(spec, count, target, runner);
    storage_->lanes().count_draw();
  });
}

template <typename Fill>
py::object Buffer::make_batch(const Plan& plan, BatchExtent extent, const Fill& fill) {
  BatchTensors tensors(*slabs_, plan.specs, extent, options_.device);
  std::vector<py::object> parts;
  parts.reserve(plan.specs.size());
  for (std::size_t i = 0; i < plan.specs.size(); ++i) parts.push_back(tensors.tensor(i));
  // Filled after that: making tensors can run a garbage collection, and with it any code.
  run_gather(plan, extent, tensors.in_one_piece(), [&] { return tensors.memory(); }, fill);
  return names_.name(std::move(parts));
}

template <typename Fill>
void Buffer::write_batch(const Plan& plan, BatchExtent extent, py::handle out, const Fill& fill) {
  const std::vector<py::object> tensors = names_.tensors_of(out, plan.specs.size());
  std::vector<std::byte*> memory(tensors.size());
  const auto locate = [&] {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorSpec& spec = plan.specs[i];
      const std::vector<std::int64_t> shape = shape_of(spec, extent);
      memory[i] = writable_tensor(tensors[i].ptr(), spec.dtype, shape, options_.device);
      if (memory[i] != nullptr) continue;
      throw ValueError("out." + names_.label(i) + ": expected a contiguous " + name_of(spec.dtype) +
                       " tensor of shape " + shape_text(shape) + " on the " +
                       (options_.device == nullptr ? "CPU" : "buffer's device") + ", got " +
                       describe(tensors[i].ptr()));
    }
    require_apart(plan, extent, memory);
    return BatchMemory(memory);
  };
  run_gather(plan, extent, false, locate, fill);
}

py::tuple Buffer::batch_layout(py::handle batch_size) const {
  const BatchExtent extent = {.rows = read_size(batch_size, "batch_size")};
  const BatchLayout layout = lay_out(plan_.specs, extent);
  py::list tensors;
  for (std::size_t i = 0; i < plan_.specs.size(); ++i) {
    const TensorSpec& spec = plan_.specs[i];
    tensors.append(py::make_tuple(layout.offsets[i], name_of(spec.dtype),
                                  py::tuple(py::cast(shape_of(spec, extent)))));
  }
  return py::make_tuple(layout.nbytes, tensors);
}

void Buffer::sample_into(py::handle base, py::handle batch_size) {
  settle_seed();
  const std::size_t count = read_size(batch_size, "batch_size");
  require_rows(count);
  const BatchExtent extent = {.rows = count};
  const BatchLayout layout = lay_out(plan_.specs, extent);
  const std::int64_t shape[] = {static_cast<std::int64_t>(layout.nbytes)};
  std::vector<std::byte*> parts(layout.offsets.size());
  const auto locate = [&] {
    std::byte* memory = writable_tensor(base.ptr(), DType::kUInt8, shape, options_.device);
    if (memory == nullptr) {
      throw ValueError("base: expected a contiguous uint8 tensor of shape " + shape_text(shape) +
                       " on the buffer's device, got " + describe(base.ptr()));
    }
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i] = memory + layout.offsets[i];
    return BatchMemory(parts);
  };
  run_gather(plan_, extent, true, locate, draw_rows(count));
}

py::object Buffer::name_batch(std::vector<py::object> tensors) const {
  if (tensors.size() != plan_.specs.size()) {
    throw ValueError("tensors: expected " + std::to_string(plan_.specs.size()) + ", got " +
                     std::to_string(tensors.size()));
  }
  return names_.name(std::move(tensors));
}

void Buffer::require_apart(const Plan& plan, BatchExtent extent, BatchMemory memory) const {
  const auto end = [&](std::size_t i) {
    return memory[i] + num_rows(plan.specs[i], extent) * plan.specs[i].row_bytes;
  };
  for (std::size_t i = 0; i < memory.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (end(i) <= memory[j] || end(j) <= memory[i]) continue;
      throw ValueError("out." + names_.label(i) + ": expected a tensor of its own, got one that " +
                       "shares memory with " + names_.label(j));
    }
  }
}

template <typename Locate, typename Fill>
void Buffer::run_gather(const Plan& plan, BatchExtent extent, bool in_one_piece,
                        const Locate& locate, const Fill& fill) {
  if (options_.device == nullptr) return gather_on_host(plan, extent, locate, fill);
  if (copies_ != nullptr) return gather_and_copy(plan, extent, in_one_piece, locate, fill);
  fill(locate(), nullptr);
}

template <typename Locate, typename Fill>
void Buffer::gather_on_host(const Plan& plan, BatchExtent extent, const Locate& locate,
                            const Fill& fill) {
  if (plan.row_bytes * extent.rows * extent.steps < kLargeBatch) {
    gather_lock_.wait();
    fill(locate(), nullptr);
    return;
  }
  const UnlockedRunner runner(gather_lock_, torch_threads());
  gather_lock_.wait_to_gather();
  fill(locate(), &runner);
}

template <typename Locate, typename Fill>
void Buffer::gather_and_copy(const Plan& plan, BatchExtent extent, bool in_one_piece,
                             const Locate& locate, const Fill& fill) {
  if (options_.device->runtime().is_capturing(options_.device->current_stream())) {
    throw DeviceError(
        "sample: expected a stream that runs, got one that a CUDA graph captures; rows on the host "
        "cannot be part of it: use storage='cuda' or 'pinned'");
  }
  locate();  // before anything is drawn
  const BatchLayout layout = lay_out(plan.specs, extent);
  const auto locate_copy = [&] {
    std::byte* memory = copies_->take(layout.nbytes);
    std::vector<std::byte*> parts;
    for (const std::size_t offset : layout.offsets) parts.push_back(memory + offset);
    return parts;
  };
  gather_on_host(plan, extent, locate_copy, fill);
  queue_copies(plan, extent, layout, locate(), in_one_piece);  // other code may have run since
}

void Buffer::queue_copies(const Plan& plan, BatchExtent extent, const BatchLayout& layout,
                          BatchMemory memory, bool in_one_piece) {
  void* const stream = options_.device->current_stream();
  if (in_one_piece) {
    copies_->copy(memory[0], 0, layout.nbytes, stream);
  } else {
    for (std::size_t i = 0; i < memory.size(); ++i) {
      const std::size_t bytes = num_rows(plan.specs[i], extent) * plan.specs[i].row_bytes;
      copies_->copy(memory[i], layout.offsets[i], bytes, stream);
    }
  }
  copies_->send(stream);
}

void Buffer::add_columns(const Plan& plan, BatchMemory memory, bool each_step, std::uint32_t n_step,
                         std::vector<Column>& columns) const {
  const RowLayout& layout = storage_->layout();
  for (std::size_t f = 0; f < layout.fields().size(); ++f) {
    const Field& field = layout.fields()[f];
    if (plan.specs[f].each_step != each_step) continue;
    if (field.role == Role::kReward && n_step > 1) continue;  // a sum, not a copy
    columns.push_back(column_of(field, layout, memory[f]));
  }
}

BatchTarget Buffer::target_of(const Plan& plan, BatchMemory memory, std::uint32_t n_step,
                              std::vector<Column>& columns) const {
  columns.clear();
  add_columns(plan, memory, true, n_step, columns);
  BatchTarget target = {};
  target.columns = columns.data();
  target.num_columns = static_cast<std::uint32_t>(columns.size());
  target.n_step = n_step;
  if (n_step > 1) {
    target.reward_offset = storage_->layout().fields()[plan.reward].offset;
    target.rewards = reinterpret_cast<float*>(memory[plan.reward]);
  }
  target.dones = reinterpret_cast<float*>(memory[plan.dones]);
  target.truncations = reinterpret_cast<float*>(memory[plan.dones + 1]);
  target.indices = reinterpret_cast<std::int64_t*>(memory[plan.dones + 2]);
  if (options_.gamma) {
    target.gamma = *options_.gamma;
    target.discounts = reinterpret_cast<float*>(memory[plan.dones + 3]);
  }
  return target;
}

std::uint64_t Buffer::count_pushed() const {
  const RowsView view = storage_->view();
  std::uint64_t rows = 0;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) rows += view.end(lane);
  return rows;
}

const char* Buffer::storage() const {
  if (options_.place == StoragePlace::kHost) return "cpu";
  return options_.place == StoragePlace::kDevice ? "cuda" : "pinned";
}

}  // namespace velora
