#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

#include "core/batch/plan.h"

namespace velora {

/// Turns the tensors of a batch into a BatchExperience, and such a batch into its tensors.
///
/// Tensors come in the order of a BatchPlan.
class BatchNames {
 public:
  /// `batch_type` is BatchExperience; `trees` are pytrees of field numbers by attribute of an
  /// experience, `names` what a batch calls these, in the same order.
  BatchNames(pybind11::object batch_type, const pybind11::dict& trees,
             const std::vector<std::string>& names);

  /// Takes the tensors. Sets the fields of a new batch without a call of its `__init__`.
  pybind11::object name(const BatchPlan& plan, std::vector<pybind11::object> tensors) const;
  /// The tensors of a batch that name() made, or one like it. Throws TypeError for what is no
  /// batch, ValueError for one with other nests.
  std::vector<pybind11::object> tensors_of(const BatchPlan& plan, pybind11::handle batch) const;
  /// The name of the i-th tensor: "states['camera']".
  std::string label(const BatchPlan& plan, std::size_t i) const;

 private:
  struct Tree {
    pybind11::object name;  // attribute of a batch, or key of its extras
    pybind11::object places;
    bool is_extra;
  };

  pybind11::object type_;
  std::vector<Tree> trees_;
  std::vector<pybind11::object> parts_;  // names, by BatchPart
  std::vector<std::string> labels_;      // of the fields
  pybind11::dict no_parts_;              // all attributes of a batch, each None
  pybind11::object extras_;
};

}  // namespace velora
