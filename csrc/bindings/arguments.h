#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/batch/target.h"
#include "core/rows/rows_view.h"
#include "core/values/array_view.h"

// Arguments of Python calls as numbers. What is of the wrong kind is a TypeError (as a Python
// error), what is out of range a ValueError that names it. Reading one can run code.

namespace velora {

/// The arguments of a call, as METH_FASTCALL | METH_KEYWORDS hands them over.
struct CallArguments {
  PyObject* const* values;  // positional ones, then those by name
  std::size_t positional;
  PyObject* names;  // a tuple, or null

  std::size_t named() const {
    return names == nullptr ? 0 : static_cast<std::size_t>(PyTuple_GET_SIZE(names));
  }
  PyObject* name(std::size_t i) const {
    return PyTuple_GET_ITEM(names, static_cast<Py_ssize_t>(i));
  }
  PyObject* value(std::size_t i) const { return values[positional + i]; }
};

/// Equal names that are interned are the same object: look-ups compare them by address.
pybind11::object intern(const std::string& name);

/// An int, or what counts as one, of at least 1.
std::size_t read_size(pybind11::handle value, const char* name);

/// A number, or what float() takes that is no text, as the nearest float32.
float read_float(pybind11::handle value, const char* name);

/// One of `num_lanes` lanes; null or None where there is only one.
std::uint32_t read_lane(pybind11::handle lane, std::uint32_t num_lanes);

/// An array of lanes.
std::vector<std::uint32_t> read_lanes(pybind11::handle lanes, std::uint32_t num_lanes);

/// An array of indices, in row-major order. Throws ValueError where it has no ints. Runs no code.
std::vector<std::int64_t> read_indices(const ArrayView& indices);

/// The rows that an array of indices (B,) names, alive or not. Throws the same.
std::vector<RowId> read_row_ids(const ArrayView& indices);

/// A number for each of `rows` as float32, from an array (rows,) or (rows, 1). Throws ValueError
/// for another shape, and where one is out of range. Runs no code.
std::vector<float> read_column(const ArrayView& view, std::size_t rows, const char* name);

/// "pad", "within" or "cross".
SequenceBoundary read_boundary(const std::string& name);

}  // namespace velora
