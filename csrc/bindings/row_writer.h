#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/buffer_options.h"
#include "bindings/field_trees.h"
#include "bindings/gather_lock.h"
#include "bindings/known_type.h"
#include "bindings/row_reader.h"
#include "core/storage.h"

namespace velora {

/// Turns experiences, arrays and other buffers into rows of a storage.
///
/// The GIL is its lock, with the GatherLock where a batch is gathered without it: all code that
/// reading takes runs before the lock is waited for, and none after. Every call is all or nothing.
/// All that the constructor takes outlives this.
class RowWriter {
 public:
  RowWriter(Storage& storage, GatherLock& lock, const BufferOptions& options,
            const SchemaCalls& schema, const FieldTrees& trees);

  /// Appends one experience to a lane; null where there is only one. `priority` is its own, or null
  /// or None. Throws ValueError for data that does not fit, BufferError when full.
  void push(pybind11::handle experience, pybind11::handle lane, pybind11::handle priority);
  /// Appends rows given as arrays with a leading dimension, oldest first: by their batch names, or
  /// as read_batch understands them. `lanes` among them is an array with the lane of each row, or
  /// None: the same number for all lanes, time step by time step. `priorities` is an array with
  /// that of each row, or None. Throws as push does.
  void extend(const CallArguments& call);
  /// Makes a bool tensor (rows,), and lets a function write its elements once no batch is gathered.
  using MakeMask = std::function<pybind11::object(std::size_t, const std::function<void(bool*)>&)>;
  /// Writes fields of rows that an array of their indices names, given as batch name -> rows.
  /// Returns which rows were alive. Throws ValueError for data that does not fit.
  pybind11::object update(pybind11::handle indices, const pybind11::dict& fields,
                          const MakeMask& make_mask);

 private:
  class ReaderLease;
  /// Arguments of extend() besides fields.
  struct Placement {
    pybind11::handle lanes = pybind11::none();
    pybind11::handle priorities = pybind11::none();
  };

  RowReader& idle_reader();
  /// Checks another type of experience, and learns it. Runs code.
  void learn_type(pybind11::handle experience);
  /// The call's array for each of batch_names, null where it has none, and its lanes. Returns false
  /// where it is to be read by read_batch.
  bool find_columns(const CallArguments& call, std::vector<PyObject*>& columns,
                    Placement& placement) const;
  /// Inlined, it would make the short way of extend() longer.
  [[gnu::noinline]] void read_and_extend(const CallArguments& call, RowReader& reader,
                                         std::vector<PyObject*>& columns);
  void append_rows(RowReader& reader, const std::vector<PyObject*>& columns,
                   const Placement& placement);
  /// Stores the rows that the reader looked at, `lanes` in order, where they are. `priorities` has
  /// one for each, or none.
  void append(RowReader& reader, const LaneOrder& order, LaneRange lanes,
              std::span<const float> priorities);

  /// Appends the live steps of another storage or of this one, each to its lane's lane in `lanes`,
  /// an array, or to that of the same number where it is None. Episodes end where a copy of steps
  /// begins and ends, so no step becomes the successor of another that was not. Throws ValueError
  /// for steps of another form or an unknown lane, BufferError when there is less room.
  void extend_from(Storage& source, void* stream, pybind11::handle lanes);
  std::vector<std::uint32_t> read_targets(pybind11::handle lanes, std::uint32_t count) const;
  std::vector<std::size_t> match_fields(const RowLayout& source) const;
  std::size_t require_room_for(const RowsView& source,
                               const std::vector<std::uint32_t>& targets) const;
  void require_room(const LaneOrder& lanes, std::size_t rows) const;
  [[noreturn]] void refuse_full(std::uint32_t lane, std::uint64_t size, std::size_t rows) const;

  Storage& storage_;
  GatherLock& gather_lock_;
  const BufferOptions& options_;
  const SchemaCalls& schema_;
  const FieldTrees& trees_;
  std::vector<pybind11::object> batch_names_;  // interned, as lanes_name_
  pybind11::object lanes_name_;
  pybind11::object priorities_name_;
  std::vector<std::unique_ptr<RowReader>> idle_readers_;
  KnownType known_type_;
};

}  // namespace velora
