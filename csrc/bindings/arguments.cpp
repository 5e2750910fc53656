#include "bindings/arguments.h"

#include "bindings/borrowed_array.h"
#include "bindings/describe.h"
#include "core/values/array_view.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

bool is_whole(DType dtype) { return dtype != DType::kBool && dtype < DType::kFloat16; }

py::object read_index(py::handle value, const char* name) {
  auto index = py::reinterpret_steal<py::object>(
      PyBool_Check(value.ptr()) != 0 ? nullptr : PyNumber_Index(value.ptr()));
  if (index) return index;
  PyErr_Clear();
  throw py::type_error(std::string(name) + ": expected an int, got " + describe(value.ptr()));
}

}  // namespace

py::object intern(const std::string& name) {
  return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name.c_str()));
}

std::size_t read_size(py::handle value, const char* name) {
  const py::object index = read_index(value, name);
  const long long size = PyLong_AsLongLong(index.ptr());
  const bool overflow = size == -1 && PyErr_Occurred() != nullptr;
  PyErr_Clear();
  if (overflow || size < 1) {
    throw ValueError(std::string(name) + ": expected at least 1" +
                     (overflow ? " and at most 2**63 - 1" : "") + ", got " +
                     std::string(py::str(index)));
  }
  return static_cast<std::size_t>(size);
}

float read_float(py::handle value, const char* name) {
  const double number = PyBool_Check(value.ptr()) != 0 ? -1.0 : PyFloat_AsDouble(value.ptr());
  if (PyBool_Check(value.ptr()) != 0 || (number == -1.0 && PyErr_Occurred() != nullptr)) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + ": expected a number, got " + describe(value.ptr()));
  }
  return static_cast<float>(number);
}

std::uint32_t read_lane(py::handle lane, std::uint32_t num_lanes) {
  const auto expected = [&] {
    return "lane: expected one of 0 to " + std::to_string(num_lanes - 1);
  };
  if (!lane || lane.is_none()) {
    if (num_lanes == 1) return 0;
    throw ValueError(expected() + " for a buffer of " + std::to_string(num_lanes) +
                     " environments, got none; name one, or extend() with a step of each");
  }
  const py::object index = read_index(lane, "lane");
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || number < 0 || number >= num_lanes) {
    throw ValueError(expected() + ", got " + std::string(py::str(index)));
  }
  return static_cast<std::uint32_t>(number);
}

std::vector<std::int64_t> read_indices(const ArrayView& indices) {
  if (!is_whole(indices.dtype)) {
    throw ValueError(std::string("indices: expected ints, got ") + name_of(indices.dtype));
  }
  std::vector<std::int64_t> packed(static_cast<std::size_t>(indices.num_elements()));
  const Misfit misfit =
      copy_elements(indices, DType::kInt64, reinterpret_cast<std::byte*>(packed.data()));
  if (misfit != Misfit::kNone) throw ValueError("indices: expected int64, got one beyond 63 bits");
  return packed;
}

std::vector<RowId> read_row_ids(const ArrayView& indices) {
  if (indices.ndim != 1) {
    throw ValueError("indices: expected shape (B,), got " + indices.shape_string());
  }
  const std::vector<std::int64_t> packed = read_indices(indices);
  std::vector<RowId> rows;
  rows.reserve(packed.size());
  for (const std::int64_t index : packed) {
    rows.push_back(index < 0 ? RowId{.lane = RowId::kNoLane, .serial = 0}
                             : RowId::unpack(static_cast<std::uint64_t>(index)));
  }
  return rows;
}

std::vector<float> read_column(const ArrayView& view, std::size_t rows, const char* name) {
  const bool fits = view.ndim == 1 || (view.ndim == 2 && view.shape[1] == 1);
  if (!fits || static_cast<std::size_t>(view.shape[0]) != rows) {
    const std::string count = std::to_string(rows);
    throw ValueError(std::string(name) + ": expected shape (" + count + ",) or (" + count +
                     ", 1), one for each row, got " + view.shape_string());
  }
  std::vector<float> elements(static_cast<std::size_t>(view.num_elements()));
  const Misfit misfit =
      copy_elements(view, DType::kFloat32, reinterpret_cast<std::byte*>(elements.data()));
  if (misfit != Misfit::kNone) {
    throw ValueError(std::string(name) + ": expected finite float32, got one beyond its range");
  }
  return elements;
}

std::vector<std::uint32_t> read_lanes(py::handle lanes, std::uint32_t num_lanes) {
  BorrowedArray array;
  array.prepare(lanes.ptr(), "lanes");
  const ArrayView& view = array.look("lanes");
  if (!is_whole(view.dtype) || view.ndim != 1) {
    throw ValueError("lanes: expected ints (k,), got " + describe(lanes.ptr()));
  }
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(view.shape[0]));
  const Misfit misfit =
      copy_elements(view, DType::kInt64, reinterpret_cast<std::byte*>(numbers.data()));
  std::vector<std::uint32_t> result;
  result.reserve(numbers.size());
  for (const std::int64_t number : numbers) {
    if (misfit != Misfit::kNone || number < 0 || number >= num_lanes) {
      throw ValueError("lanes: expected numbers from 0 to " + std::to_string(num_lanes - 1) +
                       ", got " +
                       (misfit != Misfit::kNone ? "one beyond 63 bits" : std::to_string(number)));
    }
    result.push_back(static_cast<std::uint32_t>(number));
  }
  return result;
}

SequenceBoundary read_boundary(const std::string& name) {
  if (name == "pad") return SequenceBoundary::kPad;
  if (name == "within") return SequenceBoundary::kWithin;
  if (name == "cross") return SequenceBoundary::kCross;
  throw ValueError("boundary: expected 'pad', 'within' or 'cross', got '" + name + "'");
}

}  // namespace velora
