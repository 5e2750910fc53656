#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bindings/borrowed_array.h"
#include "bindings/field_trees.h"
#include "bindings/known_type.h"
#include "core/device/store.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"

namespace velora {

/// Reads Experiences and batches from Python and lays them out as rows.
///
/// There are two ways. Values that run no code when they are read are peeked at: nearly every call
/// brings no others, and a push then takes 4,900 instructions where the other way takes 11,200.
/// That has two steps: the prepare calls run all code that reading takes and hold what comes of it;
/// look() runs none, checks everything, and throws before anything is stored. What else may run
/// code, or wait, comes before a peek or a look: what they read is good until other code runs. So
/// values stay where they are: a copy made while they are prepared would need no look, and as much
/// memory again.
///
/// Rows of another dtype are converted: few right away, many part by part as they are stored.
class RowReader {
 public:
  /// Reads the attributes of `trees`, which must outlive this object, and always `done` and
  /// `truncated`, as the row's flags. Tensors on `device`, which may be null, can stay there.
  RowReader(const RowLayout& layout, const FieldTrees& trees, const TorchDevice* device);

  /// The attributes that are read: those of `trees` in their order, then `done` and `truncated`.
  const std::vector<pybind11::object>& names() const { return names_; }

  /// Prepares one row from an object's attributes, of which those in `found` were looked up
  /// already, in the order of names(). Throws ValueError.
  void prepare_row(PyObject* source, const HeldValues& found);
  /// Prepares rows that are stacked along a leading dimension, the same for all fields: a value for
  /// each of names(), null where it is missing. A missing `truncated` means never. With `to_host`
  /// no tensor stays on the device. Throws ValueError.
  void prepare_rows(std::span<PyObject* const> columns, bool to_host);
  /// The same for a value for each of the trees, where only those that are not null are read, to
  /// the host.
  void prepare_some(std::span<PyObject* const> columns);
  /// Reads what was prepared, as it is now. Throws ValueError and MemoryError.
  void look();
  /// Reads one row in a fraction of the time, for what nearly every push brings: arrays and numbers
  /// that fit, or nests of them, in the order of names(). Runs no code; adds the leaves of nests to
  /// what is held. Returns false for anything else, which is for prepare_row.
  bool peek_row(HeldValues& values);
  /// The same for what nearly every extend brings; holds the leaves of nests alone.
  bool peek_rows(std::span<PyObject* const> columns, HeldValues& leaves);

  /// The number of rows that were read.
  std::size_t count() const { return count_; }
  /// The rows that were read. Precondition: all of it is on the host, and not in_parts().
  const RowSource& source() const { return source_; }
  /// Whether rows are still to be converted.
  bool in_parts() const { return part_rows_ < count_; }
  /// Calls f(first, source, count) for rows [first, first + count), until it was given all. Throws
  /// nothing itself. Precondition: in_parts(), and all of it is on the host.
  template <typename F>
  void each_part(const F& f) {
    for (std::size_t first = 0; first < count_; first += part_rows_) {
      const std::size_t count = std::min(part_rows_, count_ - first);
      f(first, convert_part(first, count), count);
    }
  }
  /// Whether some of it is on the device still.
  bool has_device_rows() const { return num_on_device_ > 0; }
  /// All of it. Throws MemoryError.
  MixedSource mixed_source();
  /// Lets go of what is held.
  void release();

 private:
  /// Names of a field: in an experience, and by a batch.
  struct Label {
    std::string one;
    std::string many;
  };
  /// One field of what is being read: borrowed, and converted where its own bytes do not do.
  struct Leaf {
    Label label;
    pybind11::object value;  // as it was given; null where it is missing
    BorrowedArray array;
    pybind11::object on_device;  // instead of the array
    ArrayView peeked;            // where nothing is held
    NumberMemory number;
    std::vector<std::byte> converted;
    const std::byte* rows = nullptr;
    bool in_parts = false;
    ArrayView unconverted;  // where it is in parts
  };

  /// Of a field: more is converted in parts, and not kept.
  static constexpr std::size_t kPartBytes = std::size_t{1} << 20;
  static constexpr std::size_t kAllRows = SIZE_MAX;

  const std::string& name(const Label& label) const { return stacked_ ? label.many : label.one; }
  void prepare_tree(std::size_t tree, PyObject* value);
  [[noreturn]] void refuse_form(std::size_t tree, const Pytree::Node& node, PyObject* value) const;
  void prepare_leaf(PyObject* value, const Field& field, Leaf& leaf);
  void look_at(const Field& field, Leaf& leaf);
  template <bool kStacked, typename ValueOf>
  bool peek(const ValueOf& value_of, HeldValues& held);
  template <bool kStacked>
  bool peek_leaf(PyObject* value, const Field& field, Leaf& leaf);
  /// Finds the rows of a leaf in its view, or converts them.
  Misfit find_rows(const ArrayView& view, const Field& field, Leaf& leaf);
  bool rows_fit(const Field& field, const ArrayView& view);
  Misfit convert(const ArrayView& view, const Field& field, Leaf& leaf);
  void check_shape(const ArrayView& view, const Field& field, const Leaf& leaf);
  template <typename F>
  void each_leaf(const F& f);
  void reserve_parts(std::size_t rows);
  RowSource convert_part(std::size_t first, std::size_t count);
  void point_at_rows();

  const RowLayout& layout_;
  const TorchDevice* device_;
  std::vector<pybind11::object> names_;
  const FieldTrees& trees_;   // of all names but the flags
  std::vector<Leaf> leaves_;  // one for each field of the layout; a Leaf does not move
  Leaf done_;
  Leaf truncated_;
  std::vector<const std::byte*> field_rows_;  // of `source_`, or of a part
  std::unique_ptr<bool[]> on_device_;         // one for each field
  std::size_t num_on_device_ = 0;             // of fields and flags
  RowSource source_{};
  bool stacked_ = false;
  bool to_host_ = false;
  std::size_t count_ = 0;
  std::size_t part_rows_ = kAllRows;  // rows that are converted at once
};

}  // namespace velora
