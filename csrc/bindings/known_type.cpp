#include "bindings/known_type.h"

#include <structmember.h>

#include <optional>
#include <utility>

namespace py = pybind11;

namespace velora {
namespace {

constexpr Py_ssize_t kElsewhere = -1;

/// Where the objects of a type have an attribute: in a slot, from the start of the object, or
/// elsewhere. Nothing where looking it up would not be plain.
std::optional<Py_ssize_t> find_slot(PyTypeObject* type, py::handle name) {
  // The attribute of that name in the type or one of its bases, as it stands there.
  const auto found = py::reinterpret_borrow<py::object>(_PyType_Lookup(type, name.ptr()));
  if (!found || Py_TYPE(found.ptr())->tp_descr_get == nullptr) return kElsewhere;
  if (Py_TYPE(found.ptr()) != &PyMemberDescr_Type) return std::nullopt;
  const auto* descriptor = reinterpret_cast<PyMemberDescrObject*>(found.ptr());
  const PyMemberDef& member = *descriptor->d_member;
  const bool is_slot = member.type == T_OBJECT_EX && (member.flags & READ_RESTRICTED) == 0 &&
                       PyType_IsSubtype(type, descriptor->d_common.d_type) != 0;
  return is_slot ? std::optional(member.offset) : std::nullopt;
}

}  // namespace

void KnownType::learn(PyTypeObject* type) {
  const auto object = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(type));
  _PyType_Lookup(type, names_.front().ptr());  // gives the type a version, where it has none
  const unsigned int version = type->tp_version_tag;
  bool plain = version != 0 && type->tp_getattro == PyObject_GenericGetAttr &&
               names_.size() <= HeldValues::kMax;
  std::vector<Slot> slots;
  for (std::size_t i = 0; plain && i < names_.size(); ++i) {
    const std::optional<Py_ssize_t> offset = find_slot(type, names_[i]);
    plain = offset.has_value();
    if (plain && *offset != kElsewhere) slots.push_back({.attribute = i, .offset = *offset});
  }
  // Only now, and all at once: what ran meanwhile can have learned another type, and what the old
  // type's end runs will.
  const py::object old = std::exchange(type_, object);
  version_ = version;
  plain_ = plain;
  slots_ = std::move(slots);
}

}  // namespace velora
