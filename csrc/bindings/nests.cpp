#include "bindings/nests.h"

#include <string>
#include <utility>
#include <vector>

#include "bindings/pytree.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

std::string dict_text(py::handle keys) {
  const py::object sorted = py::module_::import("builtins").attr("sorted");
  const py::object key =
      py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&PyUnicode_Type));
  return "a dict with keys " + py::cast<std::string>(py::str(sorted(keys, py::arg("key") = key)));
}

std::string form_of(py::handle nest) {
  if (PyDict_Check(nest.ptr()) != 0) {
    return dict_text(py::reinterpret_steal<py::object>(PyDict_Keys(nest.ptr())));
  }
  if (PyTuple_Check(nest.ptr()) == 0) return Py_TYPE(nest.ptr())->tp_name;
  return "a tuple of " + std::to_string(PyTuple_GET_SIZE(nest.ptr()));
}

std::string form_of(const Pytree::Node& node) {
  if (node.kind == Pytree::Kind::kDict) return dict_text(node.keys);
  return "a tuple of " + std::to_string(node.children.size());
}

py::list leaves(py::handle nest) {
  std::vector<py::object> found;
  const Pytree form(nest, found);
  py::list list;
  for (const py::object& leaf : found) {
    if (!leaf.is_none()) list.append(leaf);
  }
  return list;
}

py::object map_leaves(py::handle function, py::handle nest) {
  std::vector<py::object> found;
  const Pytree form(nest, found);
  for (py::object& leaf : found) {
    if (leaf.is_none()) continue;
    leaf = py::reinterpret_steal<py::object>(PyObject_CallOneArg(function.ptr(), leaf.ptr()));
    if (!leaf) throw py::error_already_set();
  }
  return form.unflatten(found);
}

/// Appends the leaves of a nest that has the form of another, by whose name it is refused.
void append_leaves(const Pytree& form, const std::string& name, py::handle nest,
                   std::vector<py::object>& found) {
  form.flatten(
      nest.ptr(), Pytree::Types::kAny,
      [&](std::size_t, PyObject* leaf) {
        found.push_back(py::reinterpret_borrow<py::object>(leaf));
      },
      [&](const Pytree::Node& node, PyObject* got, const Pytree::Node* /*missing*/) {
        throw ValueError(form.path_of(node, name) + ": expected " + form_of(node) + ", got " +
                         form_of(py::handle(got)));
      });
}

py::object map_named_leaves(py::handle function, py::handle nest, const std::string& name,
                            const py::tuple& others) {
  std::vector<py::object> found;  // of the nest, then of each of the others
  const Pytree form(nest, found);
  for (const py::handle other : others) append_leaves(form, name, other, found);
  const std::vector<std::string> paths = form.paths(name);
  std::vector<py::object> made;
  std::vector<PyObject*> arguments;
  for (std::size_t leaf = 0; leaf < form.num_leaves(); ++leaf) {
    const py::str path(paths[leaf]);
    arguments.assign(1, path.ptr());
    for (std::size_t i = leaf; i < found.size(); i += form.num_leaves()) {
      arguments.push_back(found[i].ptr());
    }
    made.push_back(py::reinterpret_steal<py::object>(
        PyObject_Vectorcall(function.ptr(), arguments.data(), arguments.size(), nullptr)));
    if (!made.back()) throw py::error_already_set();
  }
  return form.unflatten(made);
}

}  // namespace

void bind_nests(py::module_& m) {
  m.def("leaves", &leaves, py::arg("nest"),
        "All leaves of a nest of dicts and tuples in their order, but None.");
  m.def("map_leaves", &map_leaves, py::arg("function"), py::arg("nest"),
        "The same nest with `function` applied to each leaf; None stays None.");
  m.def(
      "map_named_leaves", &map_named_leaves, py::arg("function"), py::arg("nest"), py::arg("name"),
      py::arg("others") = py::tuple(),
      "The nest of `function(path, leaf, *leaves of others)`. Raises ValueError for other forms.");
  m.def(
      "form_of", [](py::handle nest) { return form_of(nest); }, py::arg("nest"),
      "The form of a nest at its top: \"a dict with keys ['a', 'b']\".");
}

}  // namespace velora
