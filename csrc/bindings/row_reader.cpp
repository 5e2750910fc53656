#include "bindings/row_reader.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/describe.h"
#include "core/memory/memory_limit.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

const Field kFlag = {
    .name = "", .role = Role::kExtra, .dtype = DType::kBool, .shape = {1}, .nbytes = 1};

std::string shape_of(const Field& field) { return shape_text(field.shape); }

/// Does one row of this shape fit the field? A scalar is a vector of one, and (1, F) is one row
/// of F.
bool row_fits(const Field& field, const std::int64_t* shape, std::size_t ndim) {
  if (field.shape.size() == 1) {
    if (ndim == 1) return shape[0] == field.shape[0];
    if (ndim == 2 && shape[0] == 1) return shape[1] == field.shape[0];
    if (ndim == 0) return field.shape[0] == 1;
  }
  return ndim == field.shape.size() && std::equal(shape, shape + ndim, field.shape.begin());
}

/// A nest of another form. `expected` is the dict's keys or the tuple's length.
[[noreturn]] void refuse_entries(const std::string& path, const char* kind,
                                 const std::string& expected, PyObject* value) {
  std::string got;
  if (PyDict_Check(value) != 0) {
    got = "dict of " + std::string(py::str(py::list(py::handle(value).attr("keys")())));
  } else if (PyTuple_Check(value) != 0) {
    got = "tuple of " + std::to_string(PyTuple_GET_SIZE(value));
  } else if (PyList_Check(value) != 0) {
    got = "list of " + std::to_string(PyList_GET_SIZE(value)) + "; use a " + kind;
  } else {
    got = describe_with_hint(value);
  }
  throw ValueError(path + ": expected a " + kind + " of " + expected + ", got " + got);
}

const char* reason(Misfit misfit) {
  switch (misfit) {
    case Misfit::kFraction:
      return "it would lose its fraction";
    case Misfit::kRange:
      return "it is out of range";
    case Misfit::kNone:
      break;
  }
  return "";
}

}  // namespace

RowReader::RowReader(const RowLayout& layout, const FieldTrees& trees, const TorchDevice* device)
    : layout_(layout),
      device_(device),
      trees_(trees),
      leaves_(layout.fields().size()),
      field_rows_(layout.fields().size()),
      on_device_(std::make_unique<bool[]>(layout.fields().size())) {
  for (const FieldTrees::Tree& tree : trees_.trees()) {
    names_.push_back(intern(tree.attribute));
    const std::vector<std::string> one = tree.form.paths(tree.attribute);
    const std::vector<std::string> many = tree.form.paths(tree.batch_name);
    for (std::size_t i = 0; i < one.size(); ++i) {
      leaves_[tree.first_field + i].label = {one[i], many[i]};
    }
  }
  done_.label = {"done", trees_.done_batch_name()};
  truncated_.label = {"truncated", trees_.truncated_batch_name()};
  names_.push_back(intern(done_.label.one));
  names_.push_back(intern(truncated_.label.one));
}

void RowReader::prepare_row(PyObject* source, const HeldValues& found) {
  stacked_ = false;
  to_host_ = false;
  const auto read = [&](std::size_t i) {
    if (PyObject* value = found.find(i)) return py::reinterpret_borrow<py::object>(value);
    return py::reinterpret_steal<py::object>(PyObject_GetAttr(source, names_[i].ptr()));
  };
  // All of them first: looking one up can run code that drops another from the object.
  const std::size_t last = names_.size() - 1;
  std::vector<py::object> values;
  for (std::size_t i = 0; i < last; ++i) {
    values.push_back(read(i));
    if (!values.back()) throw py::error_already_set();
  }
  const py::object truncated = read(last);
  if (!truncated) {
    // An experience without this field is never cut off. One that has it and fails says so.
    py::error_already_set error;
    auto* type = reinterpret_cast<PyObject*>(Py_TYPE(source));
    if (PyObject_HasAttr(type, names_.back().ptr()) != 0 || !error.matches(PyExc_AttributeError)) {
      throw error;
    }
  }
  for (std::size_t i = 0; i < trees_.trees().size(); ++i) prepare_tree(i, values[i].ptr());
  prepare_leaf(values.back().ptr(), kFlag, done_);
  if (truncated) prepare_leaf(truncated.ptr(), kFlag, truncated_);
}

bool RowReader::peek_row(HeldValues& values) {
  stacked_ = false;
  count_ = 1;
  return peek<false>([&](std::size_t i) { return values[i]; }, values);
}

bool RowReader::peek_rows(std::span<PyObject* const> columns, HeldValues& leaves) {
  stacked_ = true;
  count_ = 0;  // the first array says how many
  return device_ == nullptr && peek<true>([&](std::size_t i) { return columns[i]; }, leaves);
}

/// `value_of(i)` is the value of names()[i].
template <bool kStacked, typename ValueOf>
bool RowReader::peek(const ValueOf& value_of, HeldValues& held) {
  num_on_device_ = 0;
  part_rows_ = kAllRows;
  const std::vector<Field>& fields = layout_.fields();
  std::size_t i = 0;
  for (const FieldTrees::Tree& tree : trees_.trees()) {
    PyObject* value = value_of(i++);
    const std::size_t first = tree.first_field;
    if (tree.form.is_leaf()) {
      if (!peek_leaf<kStacked>(value, fields[first], leaves_[first])) return false;
      continue;
    }
    const auto peek_entry = [&](std::size_t leaf, PyObject* entry) {
      const std::size_t field = first + leaf;
      return held.hold(entry) && peek_leaf<kStacked>(entry, fields[field], leaves_[field]);
    };
    if (value == nullptr || !tree.form.peek(value, peek_entry)) return false;
  }
  if (!peek_leaf<kStacked>(value_of(i), kFlag, done_)) return false;
  PyObject* truncated = value_of(i + 1);
  if (kStacked && (truncated == nullptr || truncated == Py_None)) {
    truncated_.rows = nullptr;
  } else if (!peek_leaf<kStacked>(truncated, kFlag, truncated_)) {
    return false;
  }
  point_at_rows();
  return true;
}

template <bool kStacked>
bool RowReader::peek_leaf(PyObject* value, const Field& field, Leaf& leaf) {
  ArrayView& view = leaf.peeked;
  if (value == nullptr || !velora::peek(value, &leaf.number, &view)) return false;
  if (kStacked ? !rows_fit(field, view)
               : !row_fits(field, view.shape, static_cast<std::size_t>(view.ndim))) {
    return false;
  }
  return find_rows(view, field, leaf) == Misfit::kNone;
}

Misfit RowReader::find_rows(const ArrayView& view, const Field& field, Leaf& leaf) {
  if (view.dtype != field.dtype || !view.is_contiguous()) return convert(view, field, leaf);
  leaf.rows = view.data;
  return Misfit::kNone;
}

/// The first array says how many there are.
bool RowReader::rows_fit(const Field& field, const ArrayView& view) {
  const auto ndim = static_cast<std::size_t>(view.ndim);
  if (ndim == 0 || !row_fits(field, view.shape + 1, ndim - 1)) return false;
  const auto rows = static_cast<std::size_t>(view.shape[0]);
  if (count_ == 0) count_ = rows;
  return rows > 0 && rows == count_;
}

/// Now, or part by part.
Misfit RowReader::convert(const ArrayView& view, const Field& field, Leaf& leaf) {
  const std::size_t most = std::max<std::size_t>(1, kPartBytes / field.nbytes);
  if (count_ > most) {
    // A view can repeat one row without end.
    if (count_ > memory_limit().bytes / field.nbytes) {
      throw MemoryError(name(leaf.label) + ": " + std::to_string(count_) + " rows of " +
                        std::to_string(field.nbytes) + " bytes do not fit into memory");
    }
    leaf.in_parts = true;
    leaf.unconverted = view;
    leaf.rows = nullptr;
    part_rows_ = std::min(part_rows_, most);
    return check_elements(view, field.dtype);
  }
  leaf.converted.resize(count_ * field.nbytes);
  leaf.rows = leaf.converted.data();
  return copy_elements(view, field.dtype, leaf.converted.data());
}

/// f(leaf, field) for all that is read.
template <typename F>
void RowReader::each_leaf(const F& f) {
  for (std::size_t i = 0; i < leaves_.size(); ++i) f(leaves_[i], layout_.fields()[i]);
  f(done_, kFlag);
  f(truncated_, kFlag);
}

/// Makes room for `rows` converted rows, so that convert_part() needs none.
void RowReader::reserve_parts(std::size_t rows) {
  each_leaf([&](Leaf& leaf, const Field& field) {
    if (leaf.in_parts) leaf.converted.resize(rows * field.nbytes);
  });
}

RowSource RowReader::convert_part(std::size_t first, std::size_t count) {
  const auto rows_of = [&](Leaf& leaf, const Field& field) -> const std::byte* {
    if (!leaf.in_parts) return leaf.rows == nullptr ? nullptr : leaf.rows + first * field.nbytes;
    ArrayView part = leaf.unconverted;
    part.data += static_cast<std::ptrdiff_t>(first) * part.strides[0];
    part.shape[0] = static_cast<std::int64_t>(count);
    copy_elements(part, field.dtype, leaf.converted.data());
    return leaf.converted.data();
  };
  for (std::size_t f = 0; f < leaves_.size(); ++f) {
    field_rows_[f] = rows_of(leaves_[f], layout_.fields()[f]);
  }
  return {.fields = field_rows_.data(),
          .done = rows_of(done_, kFlag),
          .truncated = rows_of(truncated_, kFlag)};
}

void RowReader::point_at_rows() {
  if (in_parts()) reserve_parts(part_rows_);
  for (std::size_t f = 0; f < leaves_.size(); ++f) field_rows_[f] = leaves_[f].rows;
  source_ = {.fields = field_rows_.data(), .done = done_.rows, .truncated = truncated_.rows};
}

void RowReader::prepare_rows(std::span<PyObject* const> columns, bool to_host) {
  stacked_ = true;
  to_host_ = to_host;
  const std::vector<FieldTrees::Tree>& trees = trees_.trees();
  for (std::size_t i = 0; i < trees.size(); ++i) {
    if (columns[i] == nullptr) {
      throw ValueError(trees[i].batch_name + ": expected a batch of this field, got none");
    }
    prepare_tree(i, columns[i]);
  }
  PyObject* done = columns[trees.size()];
  if (done == nullptr) throw ValueError(done_.label.many + ": expected a batch of flags, got none");
  prepare_leaf(done, kFlag, done_);
  PyObject* truncated = columns[trees.size() + 1];
  if (truncated != nullptr && truncated != Py_None) prepare_leaf(truncated, kFlag, truncated_);
}

void RowReader::prepare_some(std::span<PyObject* const> columns) {
  stacked_ = true;
  to_host_ = true;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns[i] != nullptr) prepare_tree(i, columns[i]);
  }
}

void RowReader::prepare_tree(std::size_t tree, PyObject* value) {
  const std::size_t first = trees_.trees()[tree].first_field;
  trees_.trees()[tree].form.flatten(
      value, Pytree::Types::kAny,
      [&](std::size_t leaf, PyObject* entry) {
        prepare_leaf(entry, layout_.fields()[first + leaf], leaves_[first + leaf]);
      },
      [&](const Pytree::Node& node, PyObject* got, const Pytree::Node* /*missing*/) {
        refuse_form(tree, node, got);
      });
}

void RowReader::refuse_form(std::size_t tree, const Pytree::Node& node, PyObject* value) const {
  const FieldTrees::Tree& read = trees_.trees()[tree];
  const std::string path = read.form.path_of(node, stacked_ ? read.batch_name : read.attribute);
  if (node.kind == Pytree::Kind::kDict) {
    refuse_entries(path, "dict", py::str(py::list(node.keys)), value);
  }
  refuse_entries(path, "tuple", std::to_string(node.children.size()), value);
}

void RowReader::prepare_leaf(PyObject* value, const Field& field, Leaf& leaf) {
  leaf.value = py::reinterpret_borrow<py::object>(value);
  if (device_ != nullptr && !to_host_) {
    leaf.on_device = prepare_on_device(value, field.dtype, *device_);
    if (leaf.on_device) return;
  }
  leaf.array.prepare(value, name(leaf.label).c_str());
}

void RowReader::look() {
  count_ = stacked_ ? 0 : 1;  // the first array says how many
  num_on_device_ = 0;
  part_rows_ = kAllRows;
  for (std::size_t f = 0; f < leaves_.size(); ++f) look_at(layout_.fields()[f], leaves_[f]);
  look_at(kFlag, done_);
  look_at(kFlag, truncated_);
  point_at_rows();
}

void RowReader::look_at(const Field& field, Leaf& leaf) {
  leaf.rows = nullptr;
  leaf.in_parts = false;
  if (!leaf.value) return;
  const std::string& path = name(leaf.label);
  if (leaf.on_device) {
    const ArrayView view =
        look_on_device(leaf.on_device.ptr(), field.dtype, *device_, path.c_str());
    check_shape(view, field, leaf);
    leaf.rows = view.data;
    ++num_on_device_;
    return;
  }
  const ArrayView& view = leaf.array.look(path.c_str());
  check_shape(view, field, leaf);
  const Misfit misfit = find_rows(view, field, leaf);
  if (misfit != Misfit::kNone) {
    throw ValueError(path + ": expected a value that " + name_of(field.dtype) + " holds, got " +
                     describe(leaf.value.ptr()) + " (" + reason(misfit) +
                     "; the first experience set the dtype)");
  }
}

MixedSource RowReader::mixed_source() {
  if (in_parts()) {
    reserve_parts(count_);
    source_ = convert_part(0, count_);
  }
  for (std::size_t f = 0; f < leaves_.size(); ++f) {
    on_device_[f] = static_cast<bool>(leaves_[f].on_device);
  }
  return {.rows = source_,
          .on_device = on_device_.get(),
          .done_on_device = static_cast<bool>(done_.on_device),
          .truncated_on_device = static_cast<bool>(truncated_.on_device)};
}

void RowReader::check_shape(const ArrayView& view, const Field& field, const Leaf& leaf) {
  const auto ndim = static_cast<std::size_t>(view.ndim);
  if (stacked_ ? rows_fit(field, view) : row_fits(field, view.shape, ndim)) return;
  std::string expected = "shape " + shape_of(field);
  if (stacked_) {
    const bool one_fits = ndim > 0 && row_fits(field, view.shape + 1, ndim - 1);
    expected = !one_fits     ? "rows of " + expected
               : count_ == 0 ? "at least 1 row"
                             : std::to_string(count_) + " rows";
  }
  throw ValueError(name(leaf.label) + ": expected " + expected + ", got " +
                   describe(leaf.value.ptr()));
}

void RowReader::release() {
  each_leaf([](Leaf& leaf, const Field& /*field*/) {
    leaf.value = py::object();
    leaf.array.reset();
    leaf.on_device = py::object();
    leaf.in_parts = false;
    if (leaf.converted.capacity() > kPartBytes) std::vector<std::byte>().swap(leaf.converted);
  });
}

}  // namespace velora
