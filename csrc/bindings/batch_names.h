#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

#include "bindings/field_trees.h"
#include "core/batch/plan.h"

namespace velora {

/// Turns the tensors of a batch into a BatchExperience, and such a batch into its tensors.
///
/// Tensors come in the order of a BatchPlan.
class BatchNames {
 public:
  /// `batch_type` is BatchExperience. `trees` must outlive this object.
  BatchNames(pybind11::object batch_type, const FieldTrees& trees);

  /// Takes the tensors. Sets the fields of a new batch without a call of its `__init__`.
  pybind11::object name(const BatchPlan& plan, std::vector<pybind11::object> tensors) const;
  /// The tensors of a batch that name() made, or one like it. Throws TypeError for what is no
  /// batch, ValueError for one with other nests.
  std::vector<pybind11::object> tensors_of(const BatchPlan& plan, pybind11::handle batch) const;
  /// The name of the i-th tensor: "states['camera']".
  std::string label(const BatchPlan& plan, std::size_t i) const;

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
  std::vector<Part> parts_;                   // one for each of the trees
  std::vector<pybind11::object> part_names_;  // by BatchPart
  std::vector<std::string> labels_;           // of the fields
  pybind11::dict no_parts_;                   // all attributes of a batch, each None
  pybind11::object extras_;
};

}  // namespace velora
