#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

#include "bindings/field_trees.h"

namespace velora {

/// Turns the tensors of a batch into a BatchExperience, and such a batch into its tensors.
///
/// Tensors come in the order of the row's fields, then dones and truncations, then as far as there
/// are: indices and discounts; mask and is_first.
class BatchNames {
 public:
  /// `batch_type` is BatchExperience. `trees` must outlive this object.
  BatchNames(pybind11::object batch_type, const FieldTrees& trees);

  /// Takes the tensors. Sets the fields of a new batch without a call of its `__init__`.
  pybind11::object name(std::vector<pybind11::object> tensors) const;
  /// The first `count` tensors of a batch that name() made, or one like it. Throws TypeError for
  /// what is no batch, ValueError for one with other nests.
  std::vector<pybind11::object> tensors_of(pybind11::handle batch, std::size_t count) const;
  /// What the i-th tensor is called: "states['camera']".
  const std::string& label(std::size_t i) const { return labels_[i]; }

 private:
  /// Where a batch has a tree of fields.
  struct Part {
    pybind11::object name;  // attribute of a batch, or key of its extras
    bool is_extra;
    std::string label;
  };

  void flatten(std::size_t part, pybind11::handle value,
               std::vector<pybind11::object>& tensors) const;

  pybind11::object type_;
  const FieldTrees& trees_;
  std::vector<Part> parts_;              // one for each of the trees
  std::vector<pybind11::object> steps_;  // names of what follows the fields
  std::vector<std::string> labels_;
  pybind11::dict no_parts_;  // all attributes of a batch, each None
  pybind11::object extras_;
};

}  // namespace velora
