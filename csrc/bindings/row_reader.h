#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bindings/known_type.h"
#include "bindings/tensor_view.h"
#include "core/device_store.h"
#include "core/row_layout.h"
#include "core/row_source.h"

namespace velora {

/// Reads Experiences and batches from Python and lays them out as rows.
///
/// Reading is all or nothing: `read` checks everything, and throws before anything is stored. What
/// is of another dtype is converted: little of it right away, much of it part by part as it is
/// stored. Until release() this object holds on to the arrays.
class RowReader {
 public:
  /// `trees` maps each attribute to read to its pytree, whose leaves are indices into the
  /// layout's fields. The attributes `done` and `truncated` are always read, as the row's flags.
  /// Tensors on `device`, which may be null, can stay there.
  RowReader(const RowLayout& layout, const pybind11::dict& trees, const TorchDevice* device);

  /// The attributes that are read: those of `trees` in their order, then `done` and `truncated`.
  const std::vector<pybind11::object>& names() const { return names_; }

  /// Reads one row from an object's attributes. Throws ValueError.
  void read_row(PyObject* source);
  /// The same, in a fraction of the time, for what nearly every push brings: arrays and numbers
  /// that fit, in the order of names(). Runs no code and holds on to nothing: source() is good
  /// until other code runs. Returns false for anything else, which is for read_row.
  bool peek_row(const AttributeValues& values);
  /// Reads rows that are stacked along a leading dimension, the same for all fields: a value for
  /// each of names(), null where it is missing. A missing `truncated` means never. Returns the
  /// number of rows.
  std::size_t read_rows(std::span<PyObject* const> columns);
  /// After other code may have run since: throws ValueError unless all arrays are as they were.
  void check_again();
  /// What was read, as long as this holds on to it. Precondition: all of it is on the host, and not
  /// in_parts().
  const RowSource& source() const { return source_; }
  /// Whether rows are still to be converted.
  bool in_parts() const { return part_rows_ < count_; }
  /// Calls f(first, source, count) for rows [first, first + count), until it was given all. Throws
  /// nothing itself. Precondition: all of it is on the host.
  template <typename F>
  void each_part(const F& f) {
    for (std::size_t first = 0; first < count_; first += part_rows_) {
      const std::size_t count = std::min(part_rows_, count_ - first);
      f(first, in_parts() ? convert(first, count) : source_, count);
    }
  }
  /// Whether some of it is on the device still, and all of it then.
  bool has_device_rows() const { return num_on_device_ > 0; }
  MixedSource mixed_source();
  /// Copies that to the host, which waits for the device. Throws ValueError.
  void bring_to_host();
  /// Lets go of the arrays.
  void release();

 private:
  struct Node {
    enum class Kind { kLeaf, kDict, kTuple };
    Kind kind = Kind::kLeaf;
    std::string path;
    std::size_t field = 0;               // kLeaf
    std::vector<pybind11::object> keys;  // kDict
    std::vector<Node> children;          // kDict, kTuple
  };
  /// One field of what is being read: borrowed, and converted where its own bytes do not do.
  struct Leaf {
    BorrowedArray array;
    ArrayView peeked;  // where nothing is borrowed
    NumberMemory number;
    std::vector<std::byte> converted;
    const std::byte* rows = nullptr;
    const std::string* unconverted = nullptr;  // what errors call it, where it is in parts
    pybind11::object on_device;  // the tensor that `rows` lie in, where it is on the device
  };

  /// Of a field: more is converted in parts, and not kept.
  static constexpr std::size_t kPartBytes = std::size_t{1} << 20;

  template <typename F>
  void each_leaf(const F& f);
  void check_values();
  void plan_parts();
  RowSource convert(std::size_t first, std::size_t count);
  void finish();
  void point_at_rows();
  void require_unchanged() const;
  static Node parse(pybind11::handle tree, const std::string& path);
  void visit(const Node& node, PyObject* value);
  void read_leaf(const std::string& path, PyObject* value, const Field& field, Leaf& leaf);
  void read_on_host(const std::string& path, PyObject* value, const Field& field, Leaf& leaf);
  bool read_on_device(const std::string& path, PyObject* value, const Field& field, Leaf& leaf);
  bool peek_leaf(PyObject* value, const Field& field, Leaf& leaf);
  void check_shape(const std::string& path, PyObject* value, const Field& field,
                   std::span<const std::int64_t> shape);
  void start_reading(bool stacked);

  const RowLayout& layout_;
  const TorchDevice* device_;
  std::vector<pybind11::object> names_;
  std::vector<Node> trees_;   // of all names but the flags
  std::vector<Leaf> leaves_;  // one for each field of the layout; a Leaf does not move
  Leaf done_;
  Leaf truncated_;
  std::vector<const std::byte*> field_rows_;  // of `source_`, or of a part
  std::unique_ptr<bool[]> on_device_;         // one for each field
  std::size_t num_on_device_ = 0;             // of fields and flags
  std::size_t num_unconverted_ = 0;           // of the same
  RowSource source_{};
  bool stacked_ = false;
  bool code_ran_ = false;
  std::size_t count_ = 0;
  std::size_t part_rows_ = 0;  // rows that are converted at once; all, where none are
};

}  // namespace velora
