#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

namespace velora {

/// Turns the tensors of a batch into a BatchExperience, and such a batch into its tensors.
///
/// Tensors come in the order of the row's fields, then dones and truncations, then as far as there
/// are: indices and discounts; mask and is_first.
class BatchNames {
 public:
  /// `batch_type` is BatchExperience; `trees` are pytrees of field numbers by attribute of an
  /// experience, `names` what a batch calls these, in the same order.
  BatchNames(pybind11::object batch_type, const pybind11::dict& trees,
             const std::vector<std::string>& names);

  /// Takes the tensors. Sets the fields of a new batch without a call of its `__init__`.
  pybind11::object name(std::vector<pybind11::object> tensors) const;
  /// The first `count` tensors of a batch that name() made, or one like it. Throws TypeError for
  /// what is no batch, ValueError for one with other nests.
  std::vector<pybind11::object> tensors_of(pybind11::handle batch, std::size_t count) const;
  /// What the i-th tensor is called: "states['camera']".
  const std::string& label(std::size_t i) const { return labels_[i]; }

 private:
  struct Tree {
    pybind11::object name;  // attribute of a batch, or key of its extras
    pybind11::object places;
    bool is_extra;
  };

  pybind11::object type_;
  std::vector<Tree> trees_;
  std::size_t num_fields_;
  std::vector<pybind11::object> steps_;  // names of what follows the fields
  std::vector<std::string> labels_;
  pybind11::dict no_parts_;  // all attributes of a batch, each None
  pybind11::object extras_;
};

}  // namespace velora
