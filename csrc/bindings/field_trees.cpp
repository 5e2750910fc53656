#include "bindings/field_trees.h"

#include <utility>

#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {

FieldTrees::FieldTrees(const py::dict& trees, const std::vector<std::string>& batch_names,
                       std::size_t num_fields)
    : num_fields_(num_fields) {
  std::vector<py::object> leaves;
  for (const auto& [attribute, nest] : trees) {
    const std::size_t first_field = leaves.size();
    Pytree form(nest, leaves);
    trees_.push_back({.attribute = py::cast<std::string>(attribute),
                      .batch_name = batch_names.at(trees_.size()),
                      .form = std::move(form),
                      .first_field = first_field});
  }
  if (leaves.size() != num_fields) {
    throw ValueError("trees: expected a leaf for each of " + std::to_string(num_fields) +
                     " fields, got " + std::to_string(leaves.size()));
  }
  done_batch_name_ = batch_names.at(trees_.size());
  truncated_batch_name_ = batch_names.at(trees_.size() + 1);
}

}  // namespace velora
