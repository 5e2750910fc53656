#include "bindings/batch_names.h"

#include <utility>

#include "bindings/arguments.h"
#include "bindings/tensor_view.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

/// Calls f(key, child, label of child) for each child of a dict or tuple.
template <typename F>
void each_child(py::handle nest, const std::string& label, const F& f) {
  const auto visit = [&](py::handle key, py::handle child) {
    f(key, child, label + "[" + py::cast<std::string>(py::repr(key)) + "]");
  };
  if (PyDict_Check(nest.ptr())) {
    for (const auto& [key, child] : py::reinterpret_borrow<py::dict>(nest)) visit(key, child);
    return;
  }
  for (py::ssize_t i = 0; i < PyTuple_GET_SIZE(nest.ptr()); ++i) {
    visit(py::int_(i), PyTuple_GET_ITEM(nest.ptr(), i));
  }
}

/// The nest of tensors that a nest of field numbers stands for.
py::object nest(py::handle places, const std::vector<py::object>& tensors) {
  if (PyDict_Check(places.ptr())) {
    py::dict parts;
    for (const auto& [key, child] : py::reinterpret_borrow<py::dict>(places)) {
      parts[key] = nest(child, tensors);
    }
    return parts;
  }
  if (PyTuple_Check(places.ptr())) {
    py::tuple parts(PyTuple_GET_SIZE(places.ptr()));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto place = static_cast<py::ssize_t>(i);
      PyObject* child = PyTuple_GET_ITEM(places.ptr(), place);
      PyTuple_SET_ITEM(parts.ptr(), place, nest(child, tensors).release().ptr());
    }
    const bool named = PyObject_HasAttrString(places.ptr(), "_fields") != 0;
    return named ? py::type::of(places)(*parts) : py::object(parts);
  }
  return tensors[PyLong_AsSize_t(places.ptr())];
}

Py_ssize_t size_of_nest(py::handle nest) {
  return PyTuple_Check(nest.ptr()) ? PyTuple_GET_SIZE(nest.ptr()) : PyDict_GET_SIZE(nest.ptr());
}

/// The other way round. `label` is what the nest is called in errors.
void unnest(py::handle places, py::handle value, const std::string& label,
            std::vector<py::object>& tensors) {
  if (PyLong_Check(places.ptr())) {
    tensors[PyLong_AsSize_t(places.ptr())] = py::reinterpret_borrow<py::object>(value);
    return;
  }
  // Not what a named tuple's own __len__ says.
  const Py_ssize_t size = size_of_nest(places);
  if (Py_TYPE(value.ptr()) != Py_TYPE(places.ptr()) || size_of_nest(value) != size) {
    throw ValueError("out." + label + ": expected a " + Py_TYPE(places.ptr())->tp_name + " of " +
                     std::to_string(size) + ", got " + describe(value.ptr()));
  }
  each_child(places, label, [&](py::handle key, py::handle child, const std::string& name) {
    PyObject* part = PyTuple_Check(value.ptr())
                         ? PyTuple_GET_ITEM(value.ptr(), PyLong_AsSsize_t(key.ptr()))
                         : PyDict_GetItemWithError(value.ptr(), key.ptr());
    if (part == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (part == nullptr) throw ValueError("out." + name + ": expected a tensor, got none");
    unnest(child, py::reinterpret_borrow<py::object>(part), name, tensors);
  });
}

/// The labels of all field numbers in a nest, by number.
void label_leaves(py::handle places, const std::string& label, std::vector<std::string>& labels) {
  if (!PyLong_Check(places.ptr())) {
    each_child(places, label, [&](py::handle, py::handle child, const std::string& name) {
      label_leaves(child, name, labels);
    });
    return;
  }
  const std::size_t number = PyLong_AsSize_t(places.ptr());
  if (labels.size() <= number) labels.resize(number + 1);
  labels[number] = label;
}

void set(const py::dict& parts, const py::object& name, const py::object& value) {
  if (PyDict_SetItem(parts.ptr(), name.ptr(), value.ptr()) != 0) throw py::error_already_set();
}

}  // namespace

BatchNames::BatchNames(py::object batch_type, const py::dict& trees,
                       const std::vector<std::string>& names)
    : type_(std::move(batch_type)), extras_(intern("extras")) {
  for (const auto& [key, places] : trees) {
    const auto attribute = py::cast<std::string>(key);
    const std::string& name = names.at(trees_.size());
    const bool is_extra = name == attribute;  // others have a name for many of them
    label_leaves(places, is_extra ? "extras['" + name + "']" : name, labels_);
    trees_.push_back({intern(name), py::reinterpret_borrow<py::object>(places), is_extra});
  }
  for (const PartInfo& part : kBatchParts) parts_.push_back(intern(part.name));
  for (const auto& item : py::module_::import("dataclasses").attr("fields")(type_)) {
    set(no_parts_, intern(py::cast<std::string>(item.attr("name"))), py::none());
  }
}

py::object BatchNames::name(const BatchPlan& plan, std::vector<py::object> tensors) const {
  const auto parts = py::reinterpret_steal<py::dict>(PyDict_Copy(no_parts_.ptr()));
  if (!parts) throw py::error_already_set();
  const py::dict extras;
  for (const Tree& tree : trees_) {
    set(tree.is_extra ? extras : parts, tree.name, nest(tree.places, tensors));
  }
  set(parts, extras_, extras);
  std::size_t i = plan.num_fields();
  for (const BatchPart part : plan.parts()) set(parts, parts_[index_of(part)], tensors[i++]);
  auto* type = reinterpret_cast<PyTypeObject*>(type_.ptr());
  const auto batch = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
  if (!batch || PyObject_GenericSetDict(batch.ptr(), parts.ptr(), nullptr) != 0) {
    throw py::error_already_set();
  }
  return batch;
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
  for (const Tree& tree : trees_) {
    const auto name = py::cast<std::string>(tree.name);
    if (!tree.is_extra) {
      unnest(tree.places, batch.attr(tree.name), name, tensors);
      continue;
    }
    PyObject* extra = PyDict_GetItemWithError(extras.ptr(), tree.name.ptr());
    if (extra == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    unnest(tree.places, extra == nullptr ? py::none() : py::reinterpret_borrow<py::object>(extra),
           "extras['" + name + "']", tensors);
  }
  for (const BatchPart part : plan.parts()) {
    tensors.push_back(batch.attr(parts_[index_of(part)]));
  }
  return tensors;
}

std::string BatchNames::label(const BatchPlan& plan, std::size_t i) const {
  if (i < plan.num_fields()) return labels_[i];
  return kBatchParts[index_of(plan.parts()[i - plan.num_fields()])].name;
}

}  // namespace velora
