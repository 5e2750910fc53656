#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <utility>
#include <vector>

namespace velora {

/// The values of one object's attributes, held: nothing that runs afterwards takes them away.
class AttributeValues {
 public:
  static constexpr std::size_t kMax = 32;

  AttributeValues() = default;
  ~AttributeValues() {
    for (std::size_t i = 0; i < size_; ++i) Py_XDECREF(values_[i]);
  }
  AttributeValues(const AttributeValues&) = delete;
  AttributeValues& operator=(const AttributeValues&) = delete;

  /// Takes over a reference, or null for an attribute that is not there.
  void add(PyObject* value) { values_[size_++] = value; }
  PyObject* operator[](std::size_t i) const { return values_[i]; }

 private:
  PyObject* values_[kMax];  // only the first size_ are set: this is made for each push
  std::size_t size_ = 0;
};

/// The type of the experiences that are pushed, and how their attributes are looked up.
///
/// It is plain where they are in the object's dict, in slots, or in the type without being
/// descriptors: then looking them up calls nothing that the type defines. Needs the GIL.
class KnownType {
 public:
  /// The names of the attributes that will be looked up, interned.
  explicit KnownType(std::vector<pybind11::object> names) : names_(std::move(names)) {}

  bool is(PyTypeObject* type) const { return reinterpret_cast<PyObject*>(type) == type_.ptr(); }
  /// Can run code, which can learn another type.
  void learn(PyTypeObject* type);
  /// Whether this is the type, and plain. Looks at it again where it was changed since, which can
  /// run code.
  bool is_plain(PyTypeObject* type) {
    if (is(type) && type->tp_version_tag != version_) learn(type);
    return is(type) && plain_ && type->tp_version_tag == version_;
  }
  /// All attributes of an object. Precondition: is_plain() of its type, and no code ran since. Can
  /// run code: that of keys in the object's dict which are no plain str, or of a default in its
  /// type that became a descriptor.
  void read(PyObject* object, AttributeValues& values) const {
    for (std::size_t i = 0; i < slots_.size(); ++i) values.add(get(object, i));
  }

 private:
  static constexpr Py_ssize_t kNoSlot = -1;

  PyObject* get(PyObject* object, std::size_t i) const {
    if (slots_[i] != kNoSlot) {
      PyObject* value = *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + slots_[i]);
      Py_XINCREF(value);
      return value;
    }
    PyObject* value = PyObject_GenericGetAttr(object, names_[i].ptr());
    if (value == nullptr) PyErr_Clear();
    return value;
  }

  std::vector<pybind11::object> names_;
  pybind11::object type_;
  unsigned int version_ = 0;  // Python gives a type another one after each change
  bool plain_ = false;
  std::vector<Py_ssize_t> slots_;  // from the start of the object; kNoSlot: in none
};

}  // namespace velora
