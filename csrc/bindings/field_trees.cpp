#include "bindings/field_trees.h"

#include <string>
#include <vector>

#include "bindings/tensor_view.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

/// One more level of a walk; throws RecursionError where Python would.
class Level {
 public:
  Level() {
    if (Py_EnterRecursiveCall(" in a nest of fields") != 0) throw py::error_already_set();
  }
  ~Level() { Py_LeaveRecursiveCall(); }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
};

/// Marks the fields that a nest leads to.
void mark_fields(py::handle nest, const std::string& name, std::vector<bool>& seen) {
  const Level level;
  if (PyDict_Check(nest.ptr()) != 0) {
    for (const auto& [key, child] : py::reinterpret_borrow<py::dict>(nest)) {
      mark_fields(child, name, seen);
    }
  } else if (PyTuple_Check(nest.ptr()) != 0) {
    for (const auto& child : py::reinterpret_borrow<py::tuple>(nest)) {
      mark_fields(child, name, seen);
    }
  } else {
    const std::size_t field =
        PyLong_Check(nest.ptr()) != 0 ? PyLong_AsSize_t(nest.ptr()) : SIZE_MAX;
    if (PyErr_Occurred() != nullptr) PyErr_Clear();  // it is too large, or negative
    if (field >= seen.size() || seen[field]) {
      throw ValueError(name + ": expected numbers of fields, each of " +
                       std::to_string(seen.size()) + " once, got " + describe(nest.ptr()));
    }
    seen[field] = true;
  }
}

}  // namespace

py::dict check_trees(const py::dict& trees, std::size_t num_fields) {
  std::vector<bool> seen(num_fields);
  for (const auto& [key, nest] : trees) mark_fields(nest, py::cast<std::string>(key), seen);
  for (std::size_t field = 0; field < num_fields; ++field) {
    if (!seen[field]) {
      throw ValueError("trees: expected each of " + std::to_string(num_fields) +
                       " fields once, got none for field " + std::to_string(field));
    }
  }
  return trees;
}

}  // namespace velora
