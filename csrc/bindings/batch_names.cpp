#include "bindings/batch_names.h"

#include <span>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/describe.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

void set(const py::dict& parts, const py::object& name, const py::object& value) {
  if (PyDict_SetItem(parts.ptr(), name.ptr(), value.ptr()) != 0) throw py::error_already_set();
}

}  // namespace

BatchNames::BatchNames(py::object batch_type, const FieldTrees& trees)
    : type_(std::move(batch_type)), trees_(trees), extras_(intern("extras")) {
  for (const FieldTrees::Tree& tree : trees_.trees()) {
    const std::string& name = tree.batch_name;
    const bool is_extra = name == tree.attribute;  // others have a name for many of them
    parts_.push_back({.name = intern(name),
                      .is_extra = is_extra,
                      .label = is_extra ? "extras['" + name + "']" : name});
    for (std::string& path : tree.form.paths(parts_.back().label)) {
      labels_.push_back(std::move(path));
    }
  }
  for (const PartInfo& part : kBatchParts) part_names_.push_back(intern(part.name));
  for (const auto& item : py::module_::import("dataclasses").attr("fields")(type_)) {
    set(no_parts_, intern(py::cast<std::string>(item.attr("name"))), py::none());
  }
}

py::object BatchNames::name(const BatchPlan& plan, std::vector<py::object> tensors) const {
  const auto attributes = py::reinterpret_steal<py::dict>(PyDict_Copy(no_parts_.ptr()));
  if (!attributes) throw py::error_already_set();
  const py::dict extras;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const FieldTrees::Tree& tree = trees_.trees()[i];
    const std::span<const py::object> leaves(tensors.data() + tree.first_field,
                                             tree.form.num_leaves());
    set(parts_[i].is_extra ? extras : attributes, parts_[i].name, tree.form.unflatten(leaves));
  }
  set(attributes, extras_, extras);
  auto tensor = tensors.begin() + static_cast<std::ptrdiff_t>(plan.num_fields());
  for (const BatchPart part : plan.parts()) set(attributes, part_names_[index_of(part)], *tensor++);
  auto* type = reinterpret_cast<PyTypeObject*>(type_.ptr());
  const auto batch = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
  if (!batch || PyObject_GenericSetDict(batch.ptr(), attributes.ptr(), nullptr) != 0) {
    throw py::error_already_set();
  }
  return batch;
}

/// Finds the tensors in a part of a batch.
void BatchNames::flatten(std::size_t part, py::handle value,
                         std::vector<py::object>& tensors) const {
  const FieldTrees::Tree& tree = trees_.trees()[part];
  const std::string& label = parts_[part].label;
  tree.form.flatten(
      value.ptr(), Pytree::Types::kSame,
      [&](std::size_t leaf, PyObject* tensor) {
        tensors[tree.first_field + leaf] = py::reinterpret_borrow<py::object>(tensor);
      },
      [&](const Pytree::Node& node, PyObject* got, const Pytree::Node* missing) {
        if (missing != nullptr) {
          throw ValueError("out." + tree.form.path_of(*missing, label) +
                           ": expected a tensor, got none");
        }
        throw ValueError("out." + tree.form.path_of(node, label) + ": expected a " +
                         node.type()->tp_name + " of " + std::to_string(node.children.size()) +
                         ", got " + describe(got));
      });
}

std::vector<py::object> BatchNames::tensors_of(const BatchPlan& plan, py::handle batch) const {
  if (!py::isinstance(batch, type_)) {
    throw py::type_error("out: expected a BatchExperience, got " +
                         std::string(Py_TYPE(batch.ptr())->tp_name));
  }
  std::vector<py::object> tensors(plan.num_fields());
  const py::object extras = batch.attr(extras_);
  if (!PyDict_Check(extras.ptr())) {
    throw ValueError("out.extras: expected a dict, got " + describe(extras.ptr()));
  }
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    if (!part.is_extra) {
      flatten(i, batch.attr(part.name), tensors);
      continue;
    }
    PyObject* extra = PyDict_GetItemWithError(extras.ptr(), part.name.ptr());
    if (extra == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    flatten(i, extra == nullptr ? py::none() : py::reinterpret_borrow<py::object>(extra), tensors);
  }
  for (const BatchPart part : plan.parts()) {
    tensors.push_back(batch.attr(part_names_[index_of(part)]));
  }
  return tensors;
}

std::string BatchNames::label(const BatchPlan& plan, std::size_t i) const {
  if (i < plan.num_fields()) return labels_[i];
  return kBatchParts[index_of(plan.parts()[i - plan.num_fields()])].name;
}

}  // namespace velora
