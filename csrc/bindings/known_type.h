#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <utility>
#include <vector>

namespace velora {

/// The type of the experiences that are pushed, and how their attributes are looked up.
///
/// It is plain where looking up any of them runs no code, and what is found is held by the object
/// or by its type: they are in the object's dict, in slots, or in the type without being
/// descriptors. Needs the GIL.
class KnownType {
 public:
  /// The names of the attributes that will be looked up, interned.
  explicit KnownType(std::vector<pybind11::object> names) : names_(std::move(names)) {}

  bool is(PyTypeObject* type) const { return reinterpret_cast<PyObject*>(type) == type_.ptr(); }
  /// Can run code, which can learn another type.
  void learn(PyTypeObject* type);
  /// Whether this is the type, and plain. Looks at it again where it was changed since.
  bool is_plain(PyTypeObject* type) {
    if (is(type) && type->tp_version_tag != version_) learn(type);
    return is(type) && plain_;
  }
  /// The attribute of that number, without a reference to it; null where there is none. For objects
  /// of this type, where it is plain.
  PyObject* get(PyObject* object, std::size_t i) const {
    const Py_ssize_t slot = slots_[i];
    if (slot != kNoSlot)
      return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + slot);
    PyObject* value = PyObject_GenericGetAttr(object, names_[i].ptr());
    if (value == nullptr) PyErr_Clear();
    Py_XDECREF(value);  // the object or its type has another
    return value;
  }

 private:
  static constexpr Py_ssize_t kNoSlot = -1;

  std::vector<pybind11::object> names_;
  pybind11::object type_;
  unsigned int version_ = 0;  // Python gives a type another one after each change
  bool plain_ = false;
  std::vector<Py_ssize_t> slots_;  // from the start of the object; kNoSlot: in none
};

}  // namespace velora
