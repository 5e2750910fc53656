#include "bindings/row_writer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "bindings/buffer.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

/// Whether read_batch has to make an array of `lanes`.
bool is_listed(PyObject* lanes) {
  return PyList_Check(lanes) != 0 || PyTuple_Check(lanes) != 0 || PyRange_Check(lanes) != 0;
}

}  // namespace

RowReader& RowWriter::idle_reader() {
  if (idle_readers_.empty()) {
    idle_readers_.push_back(std::make_unique<RowReader>(
        storage_.layout(), trees_, storage_.takes_columns() ? options_.device : nullptr));
  }
  return *idle_readers_.back();
}

/// A reader for one call. Reading can run Python code (a property, a copy from a device) in which
/// another thread, or the same one, enters the buffer again: each call has its own reader.
class RowWriter::ReaderLease {
 public:
  explicit ReaderLease(RowWriter& writer) : writer_(writer) {
    writer_.idle_reader();
    reader_ = std::move(writer.idle_readers_.back());
    writer.idle_readers_.pop_back();
  }
  ~ReaderLease() {
    reader_->release();
    writer_.idle_readers_.push_back(std::move(reader_));
  }
  ReaderLease(const ReaderLease&) = delete;
  ReaderLease& operator=(const ReaderLease&) = delete;

  RowReader* operator->() { return reader_.get(); }
  RowReader& operator*() { return *reader_; }

 private:
  RowWriter& writer_;
  std::unique_ptr<RowReader> reader_;
};

RowWriter::RowWriter(Storage& storage, GatherLock& lock, const BufferOptions& options,
                     const SchemaCalls& schema, const FieldTrees& trees)
    : storage_(storage),
      gather_lock_(lock),
      options_(options),
      schema_(schema),
      trees_(trees),
      lanes_name_(intern("lanes")),
      priorities_name_(intern("priorities")),
      known_type_(idle_reader().names()) {
  for (const std::string& name : schema_.batch_names) batch_names_.push_back(intern(name));
}

void RowWriter::require_room(const LaneOrder& lanes, std::size_t rows) const {
  if (options_.overwrite) return;
  const bool even = lanes.lanes == nullptr && rows % options_.num_lanes == 0;
  if (even && storage_.fullest() + rows / options_.num_lanes <= options_.lane_capacity) return;
  const RowsView view = storage_.view();
  std::vector<std::uint64_t> added(rows > 1 ? options_.num_lanes : 0);
  std::uint32_t lane = lanes.before_first();
  for (std::size_t i = 0; i < rows; ++i) {
    lane = lanes.next(i, lane);
    const std::uint64_t before = rows > 1 ? added[lane]++ : 0;
    if (before < options_.lane_capacity - view.size(lane)) continue;
    refuse_full(lane, view.size(lane), rows);
  }
}

void RowWriter::refuse_full(std::uint32_t lane, std::uint64_t size, std::size_t rows) const {
  const bool alone = options_.num_lanes == 1;
  throw BufferError((alone ? "the buffer" : "lane " + std::to_string(lane)) +
                    " is full: it holds " + std::to_string(size) + " of " +
                    std::to_string(options_.lane_capacity) + " experiences and has no room for " +
                    (alone ? std::to_string(rows) : "so many") +
                    " more; call sample() and then empty()");
}

void RowWriter::push(py::handle experience, py::handle lane, py::handle priority) {
  // All that can run code comes before the lock, and what is only looked at after it.
  const std::uint32_t number = read_lane(lane, options_.num_lanes);
  const LaneOrder order = {.lanes = &number, .num_lanes = options_.num_lanes};
  const bool is_given = priority && !priority.is_none();
  const float given = is_given ? read_float(priority, "priority") : 0.0f;
  if (!known_type_.is(Py_TYPE(experience.ptr()))) learn_type(experience);
  HeldValues values;  // held to the end: what is peeked looks into them
  if (known_type_.read(experience.ptr(), values)) {
    gather_lock_.wait();
    if (idle_reader().peek_row(values)) {
      require_room(order, 1);
      RowSource source = idle_reader().source();
      if (is_given) storage_.reserve_priorities({&given, 1});
      source.priorities = is_given ? &given : nullptr;
      return storage_.append(order, source, 1, options_.stream());
    }
  }
  ReaderLease reader(*this);
  reader->prepare_row(experience.ptr(), values);
  gather_lock_.wait();
  reader->look();
  append(*reader, order, {number, 1}, {&given, is_given ? 1u : 0u});
}

void RowWriter::learn_type(py::handle experience) {
  const py::object type = py::type::of(experience);  // held: what runs can give it another
  schema_.check_type(type);
  known_type_.learn(reinterpret_cast<PyTypeObject*>(type.ptr()));
}

void RowWriter::append(RowReader& reader, const LaneOrder& order, LaneRange lanes,
                       std::span<const float> priorities) {
  const std::size_t rows = reader.count();
  require_room(order, rows);
  if (!priorities.empty()) storage_.reserve_priorities(priorities);
  void* const stream = options_.stream();
  if (reader.has_device_rows()) {
    return storage_.append_columns(lanes, rows / lanes.count, reader.mixed_source(), stream);
  }
  const auto append_part = [&](std::size_t first, RowSource source, std::size_t count) {
    if (!priorities.empty()) source.priorities = priorities.data() + first;
    storage_.append(order.from(first), source, count, stream);
  };
  if (!reader.in_parts()) return append_part(0, reader.source(), rows);
  storage_.reserve(rows, stream);  // nothing fails once a part is stored
  reader.each_part(append_part);
}

py::object RowWriter::update(py::handle indices, const py::dict& fields,
                             const MakeMask& make_mask) {
  ReaderLease reader(*this);
  std::vector<py::object> held;
  std::vector<PyObject*> columns;
  for (const FieldTrees::Tree& tree : trees_.trees()) {
    PyObject* value = PyDict_GetItemString(fields.ptr(), tree.batch_name.c_str());
    held.push_back(py::reinterpret_borrow<py::object>(value));
    columns.push_back(value);
  }
  BorrowedArray names;
  names.prepare(indices.ptr(), "indices");
  reader->prepare_some(columns);
  const std::vector<RowId> rows = read_row_ids(names.look("indices"));
  return make_mask(rows.size(), [&](bool* updated) {
    reader->look();
    if (reader->count() != rows.size()) {
      throw ValueError("indices: expected one for each of " + std::to_string(reader->count()) +
                       " rows of the fields, got " + std::to_string(rows.size()));
    }
    const auto write = [&](std::size_t first, const RowSource& source, std::size_t count) {
      storage_.update_fields(std::span(rows).subspan(first, count), source,
                             {updated + first, count}, options_.stream());
    };
    if (!reader->in_parts()) return write(0, reader->source(), rows.size());
    reader->each_part(write);
  });
}

void RowWriter::extend(const CallArguments& call) {
  ReaderLease reader(*this);
  std::vector<PyObject*> columns(reader->names().size());
  Placement placement;
  if (find_columns(call, columns, placement)) return append_rows(*reader, columns, placement);
  read_and_extend(call, *reader, columns);
}

/// Everything but arrays by their names is Python's to understand.
void RowWriter::read_and_extend(const CallArguments& call, RowReader& reader,
                                std::vector<PyObject*>& columns) {
  const auto arguments = py::reinterpret_steal<py::object>(
      PyObject_Vectorcall(schema_.read_batch.ptr(), call.values, call.positional, call.names));
  if (!arguments) throw py::error_already_set();
  const auto batch = py::cast<py::tuple>(arguments);
  const py::object parts = batch[0];
  if (parts.is_none()) return;  // a buffer that was never filled
  if (PyDict_Check(parts.ptr()) == 0) {
    auto& other = py::cast<Buffer&>(parts);
    return extend_from(other.storage(), other.stream(), batch[1]);
  }
  const auto named = py::reinterpret_borrow<py::dict>(parts);
  std::vector<py::object> held(columns.size());  // other code that finds the dict can empty it
  for (std::size_t i = 0; i < columns.size(); ++i) {
    columns[i] = PyDict_GetItemWithError(named.ptr(), reader.names()[i].ptr());
    if (columns[i] == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    held[i] = py::reinterpret_borrow<py::object>(columns[i]);
  }
  const py::object lanes = batch[1];
  const py::object priorities = batch[2];
  append_rows(reader, columns, {.lanes = lanes, .priorities = priorities});
}

bool RowWriter::find_columns(const CallArguments& call, std::vector<PyObject*>& columns,
                             Placement& placement) const {
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
      placement.lanes = call.value(i);
    } else if (call.name(i) == priorities_name_.ptr()) {
      placement.priorities = call.value(i);
    } else {
      return false;
    }
  }
  const auto truncated = columns.end() - 1;  // which may be missing
  return std::find(columns.begin(), truncated, nullptr) == truncated;
}

void RowWriter::append_rows(RowReader& reader, const std::vector<PyObject*>& columns,
                            const Placement& placement) {
  const py::handle lanes = placement.lanes;
  const bool in_turn = lanes.is_none();
  const std::vector<std::uint32_t> numbers =
      in_turn ? std::vector<std::uint32_t>() : read_lanes(lanes, options_.num_lanes);
  BorrowedArray given;
  if (!placement.priorities.is_none()) given.prepare(placement.priorities.ptr(), "priorities");
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
  std::vector<float> priorities;
  if (!placement.priorities.is_none()) {
    priorities = read_column(given.look("priorities"), rows, "priorities");
  }
  append(reader, order, {0, options_.num_lanes}, priorities);
}

}  // namespace velora
