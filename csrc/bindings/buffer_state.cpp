// Of a buffer, what travels: the seed of its draws, and what a pickle holds.

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "bindings/buffer.h"
#include "bindings/worker_seed.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

py::bytes make_bytes(std::size_t size) {
  auto bytes = py::reinterpret_steal<py::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(size)));
  if (!bytes) throw py::error_already_set();
  return bytes;
}

py::bytes bytes_of(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

std::span<std::byte> span_of(const py::bytes& bytes) {
  return {reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes.ptr())),
          static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr()))};
}

/// The bytes of an object that has some, as long as this is there.
class ByteView {
 public:
  explicit ByteView(py::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~ByteView() { PyBuffer_Release(&view_); }
  ByteView(const ByteView&) = delete;
  ByteView& operator=(const ByteView&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_;
};

std::vector<SavedLane> read_saved_lanes(std::span<const std::byte> bytes) {
  std::vector<SavedLane> lanes(bytes.size() / sizeof(SavedLane));
  if (bytes.size() != lanes.size() * sizeof(SavedLane)) {
    throw ValueError("lanes: expected " + std::to_string(sizeof(SavedLane)) +
                     " bytes for each, got " + std::to_string(bytes.size()) + " bytes");
  }
  if (!lanes.empty()) std::memcpy(lanes.data(), bytes.data(), bytes.size());
  return lanes;
}

}  // namespace

void Buffer::adopt_seed() {
  const DrawSeed::WorkerSeed worker = worker_seed();
  gather_lock_.wait();  // a draw that is under way is counted when its batch is there
  seed_->settle(worker);
  tell_seed();
}

void Buffer::seed(std::uint64_t value) {
  const DrawSeed::WorkerSeed worker = worker_seed();
  gather_lock_.wait();
  seed_->set(value, worker);
  tell_seed();
}

void Buffer::tell_seed() {
  if (seed_->version() == seed_version_) return;
  storage_->set_seed(seed_->value(), stream());
  seed_version_ = seed_->version();
}

py::tuple Buffer::state() {
  settle_seed();
  storage_->settle(stream());
  const std::vector<SavedLane> lanes = storage_->lanes().save();
  const std::vector<RowRange> ranges = ranges_of(lanes);
  const py::bytes rows = make_bytes(count_rows(ranges) * storage_->layout().pitch());
  py::bytes blocks;
  const auto block_memory = [&](std::size_t nbytes) {
    blocks = make_bytes(nbytes);
    return span_of(blocks).data();
  };
  storage_->export_rows(ranges, span_of(rows), block_memory, stream());
  const std::vector<std::byte> sampler = storage_->save_sampler(stream());
  return py::make_tuple(bytes_of(std::as_bytes(std::span(lanes))), seed_->value(),
                        storage_->lanes().control().draws, rows, blocks, bytes_of(sampler));
}

void Buffer::restore(py::handle lanes, std::uint64_t draws, py::handle rows, py::handle blocks,
                     py::handle sampler) {
  const ByteView lane_bytes(lanes);
  const ByteView row_bytes(rows);
  const ByteView block_bytes(blocks);
  const ByteView sampler_bytes(sampler);
  const std::vector<SavedLane> saved = read_saved_lanes(lane_bytes.bytes());
  gather_lock_.wait();
  storage_->import_rows(
      {.lanes = saved, .rows = row_bytes.bytes(), .blocks = block_bytes.bytes(), .draws = draws},
      stream());
  storage_->restore_sampler(sampler_bytes.bytes(), stream());
}

}  // namespace velora
