#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace velora {

/// Values that are held: nothing that runs afterwards takes them away.
class HeldValues {
 public:
  static constexpr std::size_t kMax = 32;

  HeldValues() = default;
  ~HeldValues() {
    for (std::size_t i = 0; i < size_; ++i) Py_XDECREF(values_[i]);
  }
  HeldValues(const HeldValues&) = delete;
  HeldValues& operator=(const HeldValues&) = delete;

  /// Steals a reference, or null for a value that is not there. Precondition: there is room.
  void add(PyObject* value) { values_[size_++] = value; }
  /// Holds one more value. Returns whether there is room.
  bool hold(PyObject* value) {
    if (size_ == kMax) return false;
    Py_INCREF(value);
    add(value);
    return true;
  }
  /// Adds null entries. Precondition: at most kMax entries in all.
  void add_missing(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) add(nullptr);
  }
  /// Steals a reference. Precondition: the i-th is not there.
  void set(std::size_t i, PyObject* value) { values_[i] = value; }
  PyObject* operator[](std::size_t i) const { return values_[i]; }
  /// The i-th, or null where there are fewer.
  PyObject* find(std::size_t i) const { return i < size_ ? values_[i] : nullptr; }

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

  bool is(const PyTypeObject* type) const {
    return reinterpret_cast<const PyObject*>(type) == type_.ptr();
  }
  /// Can run code, which can learn another type.
  void learn(PyTypeObject* type);
  /// Holds all attributes of an object in `values`, null for one that is not there. Returns false
  /// where its type is not this one or not plain. Examines a type again that was changed since.
  ///
  /// Can run code, which can learn another type or give the object one: that of keys in the dicts
  /// of the object and its type which are no plain str, and of a default in the type that became a
  /// descriptor. So slots come first: their offsets are used before anything else can run.
  bool read(PyObject* object, HeldValues& values) {
    if (is(Py_TYPE(object)) && Py_TYPE(object)->tp_version_tag != version_) learn(Py_TYPE(object));
    const PyTypeObject* type = Py_TYPE(object);
    if (!is(type) || !plain_ || type->tp_version_tag != version_) return false;
    if (slots_.empty()) {
      for (const pybind11::object& name : names_) values.add(look_up(object, name.ptr()));
      return true;
    }
    values.add_missing(names_.size());
    const std::uint32_t in_slots = read_slots(object, values);
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if ((in_slots >> i & 1) == 0) values.set(i, look_up(object, names_[i].ptr()));
    }
    return true;
  }

 private:
  /// Where the objects of the type have an attribute, from their start.
  struct Slot {
    std::size_t attribute;
    Py_ssize_t offset;
  };

  /// Runs no code. Returns a bit for each attribute that has a slot, empty or not.
  std::uint32_t read_slots(PyObject* object, HeldValues& values) const {
    std::uint32_t found = 0;
    for (const Slot& slot : slots_) {
      PyObject* value =
          *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + slot.offset);
      Py_XINCREF(value);
      values.set(slot.attribute, value);
      found |= std::uint32_t{1} << slot.attribute;
    }
    return found;
  }

  static PyObject* look_up(PyObject* object, PyObject* name) {
    PyObject* value = PyObject_GenericGetAttr(object, name);
    if (value == nullptr) PyErr_Clear();
    return value;
  }

  std::vector<pybind11::object> names_;
  pybind11::object type_;
  unsigned int version_ = 0;  // Python gives a type another one after each change
  bool plain_ = false;
  std::vector<Slot> slots_;
};

}  // namespace velora
