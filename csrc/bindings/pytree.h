#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace velora {

/// The form of a nest of dicts and tuples, compiled: flattens nests of that form to their leaves,
/// in order, and makes nests of leaves. What is neither dict nor tuple is a leaf.
///
/// Nests of one form have dicts with the same keys, in any order, and tuples of the same length.
/// Immutable. Each call is O(nodes) and needs the GIL.
class Pytree {
 public:
  enum class Kind : std::uint8_t { kLeaf, kDict, kTuple };
  struct Node {
    Kind kind = Kind::kLeaf;
    std::vector<Node> children;
    pybind11::object keys;        // of a dict: a tuple, one for each child
    pybind11::object named_type;  // of a named tuple; null for others

    /// That unflatten() makes.
    PyTypeObject* type() const {
      if (kind == Kind::kDict) return &PyDict_Type;
      return named_type ? reinterpret_cast<PyTypeObject*>(named_type.ptr()) : &PyTuple_Type;
    }
  };
  /// Of which types dicts and tuples may be: any, or those that unflatten() makes.
  enum class Types : std::uint8_t { kAny, kSame };

  /// Of a nest, whose leaves it appends. Throws RecursionError for one that is too deep to walk.
  Pytree(pybind11::handle nest, std::vector<pybind11::object>& leaves);

  bool is_leaf() const { return root_.kind == Kind::kLeaf; }
  std::size_t num_leaves() const { return num_leaves_; }
  /// Where each leaf is, after a name of the nest: "state['camera'][0]".
  std::vector<std::string> paths(const std::string& name) const;
  /// Where a node of this form is.
  std::string path_of(const Node& node, const std::string& name) const;

  /// Calls f(i, value) for leaf i of a nest, in order. Where the nest has another form it calls
  /// refuse(node, value, missing), which throws: `value` is at the position of the node, and
  /// `missing` its child whose key is not in a dict of the right size, or null.
  ///
  /// Looking up a key, and f, can run code that takes values out of the nest: f holds what it
  /// keeps.
  template <typename F, typename Refuse>
  void flatten(PyObject* nest, Types types, const F& f, const Refuse& refuse) const {
    std::size_t leaf = 0;
    flatten_node(root_, nest, types, leaf, f, refuse);
  }
  /// The same for a nest whose dicts have the very keys of the form in its order, as nearly all do.
  /// Runs no code, if f runs none. Returns false for any other nest, and where f returns false.
  template <typename F>
  bool peek(PyObject* nest, const F& f) const {
    std::size_t leaf = 0;
    return peek_node(root_, nest, leaf, f);
  }
  /// The nest of num_leaves() leaves.
  pybind11::object unflatten(std::span<const pybind11::object> leaves) const;

 private:
  static bool has_form(const Node& node, PyObject* value, Types types);
  static PyObject* key_of(const Node& dict, std::size_t child) {
    return PyTuple_GET_ITEM(dict.keys.ptr(), static_cast<Py_ssize_t>(child));
  }
  /// The value at the position of a child, borrowed; null where a dict has none.
  static PyObject* find_child(const Node& node, PyObject* value, std::size_t child);

  template <typename F, typename Refuse>
  static void flatten_node(const Node& node, PyObject* value, Types types, std::size_t& leaf,
                           const F& f, const Refuse& refuse) {
    if (node.kind == Kind::kLeaf) return f(leaf++, value);
    const auto alive = pybind11::reinterpret_borrow<pybind11::object>(value);
    if (!has_form(node, value, types)) refuse(node, value, nullptr);
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      PyObject* child = find_child(node, value, i);
      if (child == nullptr) refuse(node, value, &node.children[i]);
      flatten_node(node.children[i], child, types, leaf, f, refuse);
    }
  }

  template <typename F>
  static bool peek_node(const Node& node, PyObject* value, std::size_t& leaf, const F& f) {
    if (node.kind == Kind::kLeaf) return f(leaf++, value);
    if (!has_form(node, value, Types::kAny)) return false;
    Py_ssize_t position = 0;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      PyObject* child = nullptr;
      if (node.kind == Kind::kTuple) {
        child = PyTuple_GET_ITEM(value, static_cast<Py_ssize_t>(i));
      } else {
        PyObject* key = nullptr;
        PyDict_Next(value, &position, &key, &child);
        if (key != key_of(node, i)) return false;
      }
      if (!peek_node(node.children[i], child, leaf, f)) return false;
    }
    return true;
  }

  Node root_;
  std::size_t num_leaves_;
};

}  // namespace velora
