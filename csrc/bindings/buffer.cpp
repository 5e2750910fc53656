#include "bindings/buffer.h"

#include <string>
#include <utility>

#include "core/errors.h"

namespace py = pybind11;

namespace velora {

/// A reader for one call. Reading can run Python code (a property, a copy from a device) in which
/// another thread, or the same one, enters the buffer again: each call has a reader of its own.
class Buffer::ReaderLease {
 public:
  explicit ReaderLease(Buffer& buffer) : buffer_(buffer) {
    if (buffer.idle_readers_.empty()) {
      reader_ = std::make_unique<RowReader>(buffer.storage_->layout(), buffer.trees_);
    } else {
      reader_ = std::move(buffer.idle_readers_.back());
      buffer.idle_readers_.pop_back();
    }
  }
  ~ReaderLease() {
    reader_->release();
    buffer_.idle_readers_.push_back(std::move(reader_));
  }
  ReaderLease(const ReaderLease&) = delete;
  ReaderLease& operator=(const ReaderLease&) = delete;

  RowReader* operator->() { return reader_.get(); }
  const RowReader& operator*() const { return *reader_; }

 private:
  Buffer& buffer_;
  std::unique_ptr<RowReader> reader_;
};

Buffer::Buffer(std::vector<Field> fields, const py::dict& trees, const BufferOptions& options,
               py::object check_type)
    : storage_(make_row_storage(RowLayout(std::move(fields)), options.capacity, 1, options.seed,
                                options.device)),
      options_(options),
      trees_(trees),
      check_type_(std::move(check_type)),
      slabs_(SlabPool::create()) {
  for (const Field& field : storage_->layout().fields()) {
    specs_.push_back({field.dtype, field.shape, field.nbytes});
    columns_.push_back({.row_offset = field.offset, .nbytes = field.nbytes, .out = nullptr});
  }
  const TensorSpec one_float = {DType::kFloat32, {1}, sizeof(float)};
  specs_.push_back(one_float);  // dones
  specs_.push_back(one_float);  // truncations
  if (options_.gamma) {
    specs_.push_back({DType::kInt64, {}, sizeof(std::int64_t)});  // indices
    specs_.push_back(one_float);                                  // discounts
  }
}

void Buffer::require_room(std::size_t rows) const {
  if (options_.overwrite || rows <= options_.capacity - size()) return;
  throw BufferError("the buffer is full: it holds " + std::to_string(size()) + " of " +
                    std::to_string(options_.capacity) + " experiences and has no room for " +
                    std::to_string(rows) + " more; call sample() and then empty()");
}

void Buffer::learn_type(py::handle type) {
  check_type_(type);
  const auto plain_attribute = [&](py::handle name) {
    const auto found = py::reinterpret_steal<py::object>(PyObject_GetAttr(type.ptr(), name.ptr()));
    if (!found) {
      PyErr_Clear();
      return true;  // in each instance alone
    }
    return Py_TYPE(found.ptr())->tp_descr_get == nullptr ||
           Py_TYPE(found.ptr()) == &PyMemberDescr_Type;
  };
  bool plain =
      reinterpret_cast<PyTypeObject*>(type.ptr())->tp_getattro == PyObject_GenericGetAttr &&
      plain_attribute(py::str("done")) && plain_attribute(py::str("truncated"));
  for (const auto& [name, tree] : trees_) plain = plain && plain_attribute(name);
  known_type_ = py::reinterpret_borrow<py::object>(type);
  known_type_is_plain_ = plain;
}

void Buffer::push(py::handle experience) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(experience.ptr()));
  if (type != known_type_.ptr()) learn_type(type);
  ReaderLease reader(*this);
  reader->read_row(experience.ptr(), known_type_is_plain_);
  require_room(1);
  storage_->append(kLane, *reader, 0, 1);
}

std::size_t Buffer::extend(const py::dict& columns) {
  ReaderLease reader(*this);
  const std::size_t rows = reader->read_rows(columns);
  require_room(rows);
  // Of more rows than there are places, only the newest are worth writing.
  const std::size_t skipped = rows > options_.capacity ? rows - options_.capacity : 0;
  if (skipped > 0) storage_->skip(kLane, skipped);
  storage_->append(kLane, *reader, skipped, rows);
  return rows;
}

py::tuple Buffer::sample(py::handle batch_size) {
  const std::size_t count = positive_size(batch_size, "batch_size");
  require_rows(count);
  return make_batch(count, [&](const BatchTarget& target) {
    require_rows(count);
    storage_->sample(kLane, count, target);
    storage_->lanes().count_draw();
  });
}

void Buffer::require_rows(std::size_t count) const {
  if (count <= size()) return;
  throw ValueError("batch_size: expected at most " + std::to_string(size()) +
                   ", the number of experiences in the buffer, got " + std::to_string(count));
}

py::tuple Buffer::take(std::size_t start, std::size_t count) {
  const auto require_part = [&] {
    if (count > 0 && start <= size() && count <= size() - start) return;
    throw ValueError("rows: expected a part of the " + std::to_string(size()) +
                     " that there are, got " + std::to_string(count) + " from " +
                     std::to_string(start));
  };
  require_part();
  return make_batch(count, [&](const BatchTarget& target) {
    require_part();
    storage_->take({kLane, storage_->view().begin(kLane) + start}, count, target);
  });
}

template <typename Fill>
py::tuple Buffer::make_batch(std::size_t rows, const Fill& fill) {
  BatchTensors tensors(*slabs_, specs_, static_cast<std::int64_t>(rows), options_.device);
  py::tuple batch(specs_.size());
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    PyTuple_SET_ITEM(batch.ptr(), static_cast<py::ssize_t>(i), tensors.tensor(i).release().ptr());
  }
  // Filled last: making tensors can run a garbage collection, and with it any code.
  const std::size_t fields = columns_.size();
  for (std::size_t i = 0; i < fields; ++i) columns_[i].out = tensors.data(i);
  BatchTarget target = {};
  target.columns = columns_.data();
  target.num_columns = static_cast<std::uint32_t>(fields);
  target.dones = reinterpret_cast<float*>(tensors.data(fields));
  target.truncations = reinterpret_cast<float*>(tensors.data(fields + 1));
  if (options_.gamma) {
    target.gamma = *options_.gamma;
    target.indices = reinterpret_cast<std::int64_t*>(tensors.data(fields + 2));
    target.discounts = reinterpret_cast<float*>(tensors.data(fields + 3));
  }
  fill(target);
  return batch;
}

py::tuple Buffer::state() {
  const RowsView view = storage_->view();
  const std::size_t nbytes = view.size(kLane) * view.pitch;
  py::bytes rows = py::reinterpret_steal<py::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(nbytes)));
  if (!rows) throw py::error_already_set();
  storage_->copy_rows(kLane, {reinterpret_cast<std::byte*>(PyBytes_AS_STRING(rows.ptr())), nbytes});
  return py::make_tuple(view.end(kLane), storage_->lanes().control().draws, rows);
}

void Buffer::restore(std::uint64_t pushed, std::uint64_t draws, const py::bytes& rows) {
  const auto* data = reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(rows.ptr()));
  storage_->restore(kLane, pushed, {data, static_cast<std::size_t>(PyBytes_GET_SIZE(rows.ptr()))});
  storage_->lanes().set_draws(draws);
}

}  // namespace velora
