#include "bindings/row_reader.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>

#include "bindings/arguments.h"
#include "core/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

const std::string kDoneName = "done";
const std::string kTruncatedName = "truncated";
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
  std::string got = describe(value);
  if (PyDict_Check(value) != 0) {
    got = "dict of " + std::string(py::str(py::list(py::handle(value).attr("keys")())));
  } else if (PyTuple_Check(value) != 0) {
    got = "tuple of " + std::to_string(PyTuple_GET_SIZE(value));
  }
  throw ValueError(path + ": expected a " + kind + " of " + expected + ", got " + got);
}

const char* reason(Misfit misfit) {
  switch (misfit) {
    case Misfit::kFraction:
      return "it would lose its fraction";
    case Misfit::kRange:
      return "it is out of range";
    case Misfit::kPrecision:
      return "it would be rounded";
    case Misfit::kNone:
      break;
  }
  return "";
}

[[noreturn]] void refuse_value(const std::string& path, const Field& field, PyObject* value,
                               Misfit misfit) {
  throw ValueError(path + ": expected a value that " + name_of(field.dtype) + " holds, got " +
                   describe(value) + " (" + reason(misfit) +
                   "; the first experience set the dtype)");
}

}  // namespace

RowReader::RowReader(const RowLayout& layout, const py::dict& trees, const TorchDevice* device)
    : layout_(layout),
      device_(device),
      leaves_(layout.fields().size()),
      field_rows_(layout.fields().size()),
      on_device_(std::make_unique<bool[]>(layout.fields().size())) {
  for (const auto& [name, tree] : trees) {
    const auto text = py::cast<std::string>(name);
    names_.push_back(intern(text));
    trees_.push_back(parse(tree, text));
  }
  names_.push_back(intern(kDoneName));
  names_.push_back(intern(kTruncatedName));
}

RowReader::Node RowReader::parse(py::handle tree, const std::string& path) {
  Node node;
  node.path = path;
  if (py::isinstance<py::dict>(tree)) {
    node.kind = Node::Kind::kDict;
    for (const auto& [key, child] : py::reinterpret_borrow<py::dict>(tree)) {
      node.keys.push_back(py::reinterpret_borrow<py::object>(key));
      node.children.push_back(parse(child, path + "[" + std::string(py::repr(key)) + "]"));
    }
  } else if (py::isinstance<py::tuple>(tree)) {
    node.kind = Node::Kind::kTuple;
    for (const auto& child : py::reinterpret_borrow<py::tuple>(tree)) {
      node.children.push_back(
          parse(child, path + "[" + std::to_string(node.children.size()) + "]"));
    }
  } else {
    node.field = py::cast<std::size_t>(tree);
  }
  return node;
}

void RowReader::start_reading(bool stacked) {
  stacked_ = stacked;
  code_ran_ = false;
  count_ = stacked ? 0 : 1;  // the first array says how many
  num_on_device_ = 0;
  num_unconverted_ = 0;
}

void RowReader::read_row(PyObject* source) {
  start_reading(false);
  // All of them first: looking one up can run code, and none may change what was read of another.
  std::vector<py::object> values;
  for (std::size_t i = 0; i <= trees_.size(); ++i) {
    values.push_back(py::reinterpret_steal<py::object>(PyObject_GetAttr(source, names_[i].ptr())));
    if (!values.back()) throw py::error_already_set();
  }
  const auto truncated =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(source, names_.back().ptr()));
  if (!truncated) {
    // An experience without this field is never cut off. One that has it and fails says so.
    py::error_already_set error;
    auto* type = reinterpret_cast<PyObject*>(Py_TYPE(source));
    if (PyObject_HasAttr(type, names_.back().ptr()) != 0 || !error.matches(PyExc_AttributeError)) {
      throw error;
    }
  }
  for (std::size_t i = 0; i < trees_.size(); ++i) visit(trees_[i], values[i].ptr());
  read_leaf(kDoneName, values.back().ptr(), kFlag, done_);
  if (truncated) {
    read_leaf(kTruncatedName, truncated.ptr(), kFlag, truncated_);
  } else {
    truncated_.rows = nullptr;
  }
  finish();
}

bool RowReader::peek_row(const AttributeValues& values) {
  count_ = 1;
  num_on_device_ = 0;
  for (std::size_t i = 0; i < trees_.size(); ++i) {
    if (trees_[i].kind != Node::Kind::kLeaf) return false;
    const std::size_t field = trees_[i].field;
    if (!peek_leaf(values[i], layout_.fields()[field], leaves_[field])) return false;
  }
  if (!peek_leaf(values[trees_.size()], kFlag, done_) ||
      !peek_leaf(values[trees_.size() + 1], kFlag, truncated_)) {
    return false;
  }
  point_at_rows();
  return true;
}

bool RowReader::peek_leaf(PyObject* value, const Field& field, Leaf& leaf) {
  ArrayView& view = leaf.peeked;
  if (value == nullptr || !peek(value, &leaf.number, &view) ||
      !row_fits(field, view.shape, static_cast<std::size_t>(view.ndim))) {
    return false;
  }
  if (view.dtype == field.dtype && view.is_contiguous()) {
    leaf.rows = view.data;
    return true;
  }
  leaf.converted.resize(field.nbytes);
  leaf.rows = leaf.converted.data();
  return copy_elements(view, field.dtype, leaf.converted.data()) == Misfit::kNone;
}

/// f(leaf, field) for all that is read.
template <typename F>
void RowReader::each_leaf(const F& f) {
  for (std::size_t i = 0; i < leaves_.size(); ++i) f(leaves_[i], layout_.fields()[i]);
  f(done_, kFlag);
  f(truncated_, kFlag);
}

void RowReader::finish() {
  require_unchanged();
  part_rows_ = count_;
  if (num_unconverted_ > 0) {
    check_values();
    plan_parts();
  }
  point_at_rows();
}

/// Once no other code runs any more, which could change them.
void RowReader::check_values() {
  each_leaf([](const Leaf& leaf, const Field& field) {
    if (leaf.unconverted == nullptr) return;
    const Misfit misfit = check_elements(leaf.array.view(), field.dtype);
    if (misfit != Misfit::kNone) {
      refuse_value(*leaf.unconverted, field, leaf.array.owner(), misfit);
    }
  });
}

void RowReader::plan_parts() {
  each_leaf([&](const Leaf& leaf, const Field& field) {
    if (leaf.unconverted == nullptr) return;
    part_rows_ = std::min(part_rows_, std::max<std::size_t>(1, kPartBytes / field.nbytes));
  });
  each_leaf([&](Leaf& leaf, const Field& field) {
    if (leaf.unconverted != nullptr) leaf.converted.resize(part_rows_ * field.nbytes);
  });
}

RowSource RowReader::convert(std::size_t first, std::size_t count) {
  const auto rows_of = [&](Leaf& leaf, const Field& field) -> const std::byte* {
    if (leaf.unconverted == nullptr) {
      return leaf.rows == nullptr ? nullptr : leaf.rows + first * field.nbytes;
    }
    ArrayView part = leaf.array.view();
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
  for (std::size_t f = 0; f < leaves_.size(); ++f) field_rows_[f] = leaves_[f].rows;
  source_ = {.fields = field_rows_.data(), .done = done_.rows, .truncated = truncated_.rows};
}

void RowReader::check_again() {
  code_ran_ = true;
  require_unchanged();
  if (num_unconverted_ > 0) check_values();
}

void RowReader::require_unchanged() const {
  if (!code_ran_) return;
  const auto is_there = [&](const Leaf& leaf) {
    if (leaf.on_device) return device_memory(leaf.on_device.ptr(), *device_) == leaf.rows;
    const bool in_place = leaf.unconverted != nullptr ||
                          (leaf.rows != nullptr && leaf.rows == leaf.array.view().data);
    return !in_place || leaf.array.still_there();
  };
  const auto check = [&](const std::string& name, const Leaf& leaf) {
    if (!is_there(leaf)) {
      throw ValueError(name +
                       ": expected an array that stays as it is while it is read, got one "
                       "that other code changed");
    }
  };
  for (std::size_t f = 0; f < leaves_.size(); ++f) check(layout_.fields()[f].name, leaves_[f]);
  check(kDoneName, done_);
  check(kTruncatedName, truncated_);
}

std::size_t RowReader::read_rows(std::span<PyObject* const> columns) {
  start_reading(true);
  for (std::size_t i = 0; i < trees_.size(); ++i) {
    if (columns[i] == nullptr) {
      throw ValueError(trees_[i].path + ": expected a batch of this field, got none");
    }
    visit(trees_[i], columns[i]);
  }
  PyObject* done = columns[trees_.size()];
  if (done == nullptr) throw ValueError(kDoneName + ": expected a batch of flags, got none");
  read_leaf(kDoneName, done, kFlag, done_);
  PyObject* truncated = columns[trees_.size() + 1];
  if (truncated != nullptr && truncated != Py_None) {
    read_leaf(kTruncatedName, truncated, kFlag, truncated_);
  } else {
    truncated_.rows = nullptr;
  }
  finish();
  return count_;
}

void RowReader::visit(const Node& node, PyObject* value) {
  // Reading an entry can run code that drops its siblings or the nest.
  const auto alive = py::reinterpret_borrow<py::object>(value);
  switch (node.kind) {
    case Node::Kind::kLeaf:
      read_leaf(node.path, value, layout_.fields()[node.field], leaves_[node.field]);
      return;
    case Node::Kind::kDict:
      code_ran_ = true;  // keys may compare as they like
      if (PyDict_Check(value) == 0 ||
          PyDict_GET_SIZE(value) != static_cast<py::ssize_t>(node.keys.size())) {
        refuse_entries(node.path, "dict", py::str(py::list(py::cast(node.keys))), value);
      }
      for (std::size_t i = 0; i < node.keys.size(); ++i) {
        PyObject* child = PyDict_GetItemWithError(value, node.keys[i].ptr());
        if (child == nullptr) {
          if (PyErr_Occurred() != nullptr) throw py::error_already_set();
          refuse_entries(node.path, "dict", py::str(py::list(py::cast(node.keys))), value);
        }
        visit(node.children[i], child);
      }
      return;
    case Node::Kind::kTuple:
      if (PyTuple_Check(value) == 0 ||
          PyTuple_GET_SIZE(value) != static_cast<py::ssize_t>(node.children.size())) {
        refuse_entries(node.path, "tuple", std::to_string(node.children.size()), value);
      }
      for (std::size_t i = 0; i < node.children.size(); ++i) {
        visit(node.children[i], PyTuple_GET_ITEM(value, static_cast<py::ssize_t>(i)));
      }
      return;
  }
}

void RowReader::read_leaf(const std::string& path, PyObject* value, const Field& field,
                          Leaf& leaf) {
  if (device_ == nullptr || !read_on_device(path, value, field, leaf)) {
    read_on_host(path, value, field, leaf);
  }
}

bool RowReader::read_on_device(const std::string& path, PyObject* value, const Field& field,
                               Leaf& leaf) {
  auto tensor = py::reinterpret_borrow<py::object>(value);
  std::vector<std::int64_t> shape;
  const std::byte* rows = device_tensor(tensor, field.dtype, *device_, shape);
  if (rows == nullptr) return false;
  code_ran_ = true;  // calls of torch let other threads run
  check_shape(path, value, field, shape);
  leaf.rows = rows;
  leaf.on_device = std::move(tensor);
  ++num_on_device_;
  return true;
}

MixedSource RowReader::mixed_source() {
  if (in_parts()) {
    part_rows_ = count_;
    each_leaf([&](Leaf& leaf, const Field& field) {
      if (leaf.unconverted != nullptr) leaf.converted.resize(count_ * field.nbytes);
    });
    source_ = convert(0, count_);
  }
  for (std::size_t f = 0; f < leaves_.size(); ++f) {
    on_device_[f] = static_cast<bool>(leaves_[f].on_device);
  }
  return {.rows = source_,
          .on_device = on_device_.get(),
          .done_on_device = static_cast<bool>(done_.on_device),
          .truncated_on_device = static_cast<bool>(truncated_.on_device)};
}

void RowReader::bring_to_host() {
  const auto bring = [&](const std::string& path, const Field& field, Leaf& leaf) {
    if (!leaf.on_device) return;
    const py::object tensor = std::move(leaf.on_device);
    read_on_host(path, tensor.ptr(), field, leaf);
  };
  for (std::size_t f = 0; f < leaves_.size(); ++f) {
    bring(layout_.fields()[f].name, layout_.fields()[f], leaves_[f]);
  }
  bring(kDoneName, kFlag, done_);
  bring(kTruncatedName, kFlag, truncated_);
  num_on_device_ = 0;
  finish();
}

void RowReader::read_on_host(const std::string& path, PyObject* value, const Field& field,
                             Leaf& leaf) {
  leaf.on_device = py::object();
  leaf.unconverted = nullptr;
  leaf.array.borrow(value, path.c_str());
  code_ran_ |= leaf.array.ran_code();
  const ArrayView& view = leaf.array.view();
  check_shape(path, value, field, {view.shape, static_cast<std::size_t>(view.ndim)});
  if (view.dtype == field.dtype && view.is_contiguous()) {
    leaf.rows = view.data;
    return;
  }
  if (stacked_ && count_ > kPartBytes / field.nbytes) {
    leaf.unconverted = &path;
    ++num_unconverted_;
    leaf.rows = nullptr;
    return;
  }
  leaf.converted.resize(count_ * field.nbytes);
  const Misfit misfit = copy_elements(view, field.dtype, leaf.converted.data());
  if (misfit != Misfit::kNone) refuse_value(path, field, value, misfit);
  leaf.rows = leaf.converted.data();
}

void RowReader::check_shape(const std::string& path, PyObject* value, const Field& field,
                            std::span<const std::int64_t> shape) {
  if (!stacked_) {
    if (!row_fits(field, shape.data(), shape.size())) {
      throw ValueError(path + ": expected shape " + shape_of(field) + ", got " + describe(value));
    }
    return;
  }
  if (shape.empty() || !row_fits(field, shape.data() + 1, shape.size() - 1)) {
    throw ValueError(path + ": expected rows of shape " + shape_of(field) + ", got " +
                     describe(value));
  }
  const auto rows = static_cast<std::size_t>(shape[0]);
  if (count_ == 0 && rows == 0) {
    throw ValueError(path + ": expected at least 1 row, got " + describe(value));
  }
  if (count_ == 0) count_ = rows;
  if (rows != count_) {
    throw ValueError(path + ": expected " + std::to_string(count_) + " rows, got " +
                     describe(value));
  }
}

void RowReader::release() {
  each_leaf([](Leaf& leaf, const Field& /*field*/) {
    leaf.array.reset();
    leaf.on_device = py::object();
    leaf.unconverted = nullptr;
    if (leaf.converted.capacity() > kPartBytes) std::vector<std::byte>().swap(leaf.converted);
  });
}

}  // namespace velora
