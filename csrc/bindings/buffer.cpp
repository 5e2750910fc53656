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
      reader_ = std::make_unique<RowReader>(buffer.store_.layout(), buffer.trees_);
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

 private:
  Buffer& buffer_;
  std::unique_ptr<RowReader> reader_;
};

Buffer::Buffer(std::vector<Field> fields, const py::dict& trees, const BufferOptions& options,
               py::object check_type)
    : store_(RowLayout(std::move(fields)), options.capacity, 1, options.seed),
      options_(options),
      trees_(trees),
      check_type_(std::move(check_type)),
      slabs_(SlabPool::create()) {
  for (const Field& field : store_.layout().fields()) {
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
  const std::size_t room = options_.capacity - size();
  if (options_.overwrite || rows <= room) return;
  throw BufferError("the buffer is full: it holds " + std::to_string(size()) + " of " +
                    std::to_string(options_.capacity) + " experiences and has no room for " +
                    std::to_string(rows) + " more; call sample() and then empty()");
}

void Buffer::push(py::handle experience) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(experience.ptr()));
  if (type != known_type_.ptr()) {
    check_type_(py::handle(type));
    known_type_ = py::reinterpret_borrow<py::object>(type);
  }
  ReaderLease reader(*this);
  reader->read_row(experience.ptr());
  require_room(1);
  reader->write(0, store_.next_row(kLane));
  store_.commit(kLane);
}

std::size_t Buffer::extend(const py::dict& columns) {
  ReaderLease reader(*this);
  const std::size_t rows = reader->read_rows(columns);
  require_room(rows);
  // Of more rows than there are places, only the newest are worth writing.
  const std::size_t skipped = rows > options_.capacity ? rows - options_.capacity : 0;
  if (skipped > 0) store_.skip(kLane, skipped);
  for (std::size_t i = skipped; i < rows; ++i) {
    reader->write(i, store_.next_row(kLane));
    store_.commit(kLane);
  }
  return rows;
}

py::tuple Buffer::sample(py::handle batch_size) {
  const std::size_t count = positive_size(batch_size, "batch_size");
  const RowsView view = store_.view();
  if (count > view.size(kLane)) {
    throw ValueError("batch_size: expected at most " + std::to_string(view.size(kLane)) +
                     ", the number of experiences in the buffer, got " + std::to_string(count));
  }
  ControlBlock& control = store_.control();
  draw_.resize(count);
  draw_distinct({.seed = control.seed, .draw = control.draws}, view.size(kLane), draw_,
                draw_scratch_);
  ids_.resize(count);
  const std::uint64_t oldest = view.begin(kLane);
  for (std::size_t i = 0; i < count; ++i) ids_[i] = {kLane, oldest + draw_[i]};
  py::tuple batch = gather_batch(ids_);
  ++control.draws;
  return batch;
}

py::tuple Buffer::take(std::size_t start, std::size_t count) {
  const RowsView view = store_.view();
  if (count == 0 || start > view.size(kLane) || count > view.size(kLane) - start) {
    throw ValueError("rows: expected a part of the " + std::to_string(view.size(kLane)) +
                     " that there are, got " + std::to_string(count) + " from " +
                     std::to_string(start));
  }
  ids_.resize(count);
  for (std::size_t i = 0; i < count; ++i) ids_[i] = {kLane, view.begin(kLane) + start + i};
  return gather_batch(ids_);
}

py::tuple Buffer::gather_batch(std::span<const RowId> ids) {
  BatchTensors tensors(*slabs_, specs_, static_cast<std::int64_t>(ids.size()));
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
  gather(store_.view(), ids, target);

  py::tuple batch(specs_.size());
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    PyTuple_SET_ITEM(batch.ptr(), static_cast<py::ssize_t>(i), tensors.tensor(i).release().ptr());
  }
  return batch;
}

py::tuple Buffer::state() const {
  const RowsView view = store_.view();
  const std::size_t nbytes = view.size(kLane) * view.pitch;
  py::bytes rows = py::reinterpret_steal<py::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(nbytes)));
  if (!rows) throw py::error_already_set();
  store_.copy_rows(kLane, {reinterpret_cast<std::byte*>(PyBytes_AS_STRING(rows.ptr())), nbytes});
  return py::make_tuple(view.end(kLane), store_.control().draws, rows);
}

void Buffer::restore(std::uint64_t pushed, std::uint64_t draws, const py::bytes& rows) {
  const auto* data = reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(rows.ptr()));
  store_.restore(kLane, pushed, {data, static_cast<std::size_t>(PyBytes_GET_SIZE(rows.ptr()))});
  store_.control().draws = draws;
}

}  // namespace velora
