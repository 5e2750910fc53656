#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

#include "bindings/pytree.h"

namespace velora {

/// The attributes of an experience that are a row's fields: a pytree for each, whose leaves are the
/// fields in their order. Immutable.
class FieldTrees {
 public:
  struct Tree {
    std::string attribute;  // of an experience
    std::string batch_name;
    Pytree form;
    std::size_t first_field;
  };

  /// `trees` are nests by attribute and `batch_names` what a batch calls these, in the same order,
  /// and then `done` and `truncated`. Throws ValueError where there is not a leaf for each of
  /// `num_fields` fields, RecursionError for a nest that is too deep to walk.
  FieldTrees(const pybind11::dict& trees, const std::vector<std::string>& batch_names,
             std::size_t num_fields);

  const std::vector<Tree>& trees() const { return trees_; }
  std::size_t num_fields() const { return num_fields_; }
  /// Names of the step flags in a batch.
  const std::string& done_batch_name() const { return done_batch_name_; }
  const std::string& truncated_batch_name() const { return truncated_batch_name_; }

 private:
  std::vector<Tree> trees_;
  std::size_t num_fields_;
  std::string done_batch_name_;
  std::string truncated_batch_name_;
};

}  // namespace velora
