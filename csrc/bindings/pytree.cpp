#include "bindings/pytree.h"

namespace py = pybind11;

namespace velora {
namespace {

using Node = Pytree::Node;
using Kind = Pytree::Kind;

/// One more level of a walk over a nest of any depth. Throws RecursionError where Python would.
class Level {
 public:
  Level() {
    if (Py_EnterRecursiveCall(" in a nest of fields") != 0) throw py::error_already_set();
  }
  ~Level() { Py_LeaveRecursiveCall(); }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
};

Node compile(py::handle nest, std::vector<py::object>& leaves) {
  Node node;
  if (PyDict_Check(nest.ptr()) != 0) {
    const Level level;
    // Of a copy: what runs meanwhile can change the dict.
    const auto items = py::reinterpret_steal<py::list>(PyDict_Items(nest.ptr()));
    py::tuple keys(items.size());
    node.kind = Kind::kDict;
    node.children.reserve(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      PyObject* item = PyList_GET_ITEM(items.ptr(), static_cast<Py_ssize_t>(i));
      keys[i] = py::handle(PyTuple_GET_ITEM(item, 0));
      node.children.push_back(compile(PyTuple_GET_ITEM(item, 1), leaves));
    }
    node.keys = std::move(keys);
  } else if (PyTuple_Check(nest.ptr()) != 0) {
    const Level level;
    const Py_ssize_t size = PyTuple_GET_SIZE(nest.ptr());
    node.kind = Kind::kTuple;
    node.children.reserve(static_cast<std::size_t>(size));
    const bool is_plain = PyTuple_CheckExact(nest.ptr()) != 0;
    if (!is_plain && PyObject_HasAttrString(nest.ptr(), "_fields") != 0) {
      node.named_type = py::type::of(nest);
    }
    for (Py_ssize_t i = 0; i < size; ++i) {
      node.children.push_back(compile(PyTuple_GET_ITEM(nest.ptr(), i), leaves));
    }
  } else {
    leaves.push_back(py::reinterpret_borrow<py::object>(nest));
  }
  return node;
}

py::object make(const Node& node, std::span<const py::object> leaves, std::size_t& leaf) {
  if (node.kind == Kind::kLeaf) return leaves[leaf++];
  if (node.kind == Kind::kDict) {
    py::dict parts;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      const py::object child = make(node.children[i], leaves, leaf);
      PyObject* key = PyTuple_GET_ITEM(node.keys.ptr(), static_cast<Py_ssize_t>(i));
      if (PyDict_SetItem(parts.ptr(), key, child.ptr()) != 0) throw py::error_already_set();
    }
    return parts;
  }
  py::tuple parts(node.children.size());
  for (std::size_t i = 0; i < node.children.size(); ++i) {
    PyTuple_SET_ITEM(parts.ptr(), static_cast<Py_ssize_t>(i),
                     make(node.children[i], leaves, leaf).release().ptr());
  }
  return node.named_type ? node.named_type(*parts) : py::object(parts);
}

std::string entry_of(const Node& node, std::size_t child) {
  if (node.kind == Kind::kTuple) return "[" + std::to_string(child) + "]";
  PyObject* key = PyTuple_GET_ITEM(node.keys.ptr(), static_cast<Py_ssize_t>(child));
  return "[" + py::cast<std::string>(py::repr(key)) + "]";
}

/// Calls f(node, path) for a node and all below it, in order, until it returns true.
template <typename F>
bool each_node(const Node& node, const std::string& path, const F& f) {
  if (f(node, path)) return true;
  for (std::size_t i = 0; i < node.children.size(); ++i) {
    if (each_node(node.children[i], path + entry_of(node, i), f)) return true;
  }
  return false;
}

}  // namespace

Pytree::Pytree(py::handle nest, std::vector<py::object>& leaves) {
  const std::size_t before = leaves.size();
  root_ = compile(nest, leaves);
  num_leaves_ = leaves.size() - before;
}

std::vector<std::string> Pytree::paths(const std::string& name) const {
  std::vector<std::string> paths;
  each_node(root_, name, [&](const Node& node, const std::string& path) {
    if (node.kind == Kind::kLeaf) paths.push_back(path);
    return false;
  });
  return paths;
}

std::string Pytree::path_of(const Node& node, const std::string& name) const {
  std::string found;
  each_node(root_, name, [&](const Node& other, const std::string& path) {
    if (&other == &node) found = path;
    return &other == &node;
  });
  return found;
}

bool Pytree::has_form(const Node& node, PyObject* value, Types types) {
  if (types == Types::kSame && Py_TYPE(value) != node.type()) return false;
  // Not what a type's own __len__ says.
  const auto size = static_cast<Py_ssize_t>(node.children.size());
  if (node.kind == Kind::kDict) return PyDict_Check(value) != 0 && PyDict_GET_SIZE(value) == size;
  return PyTuple_Check(value) != 0 && PyTuple_GET_SIZE(value) == size;
}

PyObject* Pytree::find_child(const Node& node, PyObject* value, std::size_t child) {
  if (node.kind == Kind::kTuple) return PyTuple_GET_ITEM(value, static_cast<Py_ssize_t>(child));
  PyObject* found = PyDict_GetItemWithError(value, key_of(node, child));
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return found;
}

py::object Pytree::unflatten(std::span<const py::object> leaves) const {
  std::size_t leaf = 0;
  return make(root_, leaves, leaf);
}

}  // namespace velora
