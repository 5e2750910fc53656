// Rows of one buffer for another.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/row_writer.h"
#include "core/host/step_reader.h"
#include "core/host/store.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

std::string form_of(const Field& field) {
  return name_of(field.dtype) + (" of shape " + shape_text(field.shape));
}

const Field* find_field(const RowLayout& layout, const std::string& name) {
  for (const Field& field : layout.fields()) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

}  // namespace

std::vector<std::size_t> RowWriter::match_fields(const RowLayout& source) const {
  const RowLayout& own = storage_.layout();
  for (const Field& field : source.fields()) {
    if (find_field(own, field.name) != nullptr) continue;
    throw ValueError(field.name +
                     ": expected no such field, since the first experience had none, got a buffer "
                     "with it");
  }
  std::vector<std::size_t> fields;
  for (const Field& field : own.fields()) {
    const Field* theirs = find_field(source, field.name);
    if (theirs == nullptr) {
      throw ValueError(field.name +
                       ": expected this field in each experience, got a buffer without it");
    }
    if (theirs->dtype != field.dtype || theirs->shape != field.shape) {
      throw ValueError(field.name + ": expected " + form_of(field) + ", got a buffer with " +
                       form_of(*theirs));
    }
    fields.push_back(static_cast<std::size_t>(theirs - source.fields().data()));
  }
  return fields;
}

/// The lane here of each of the `count` lanes of another buffer.
std::vector<std::uint32_t> RowWriter::read_targets(py::handle lanes, std::uint32_t count) const {
  std::vector<std::uint32_t> targets;
  if (!lanes.is_none()) {
    targets = read_lanes(lanes, options_.num_lanes);
  } else if (count <= options_.num_lanes) {
    for (std::uint32_t lane = 0; lane < count; ++lane) targets.push_back(lane);
  }
  if (targets.size() == count) return targets;
  const std::string got = lanes.is_none() ? "none" : std::to_string(targets.size());
  throw ValueError("lanes: expected a lane of the " + std::to_string(options_.num_lanes) +
                   " here for each of the " + std::to_string(count) +
                   " environments of the other buffer, got " + got);
}

/// How many rows there are for all targets. Throws BufferError where they do not fit.
std::size_t RowWriter::require_room_for(const RowsView& source,
                                        const std::vector<std::uint32_t>& targets) const {
  std::size_t rows = 0;
  std::vector<std::uint64_t> added(options_.num_lanes);
  for (std::uint32_t lane = 0; lane < source.num_lanes; ++lane) {
    rows += source.size(lane);
    added[targets[lane]] += source.size(lane);
  }
  if (options_.overwrite) return rows;
  const RowsView own = storage_.view();
  for (std::uint32_t lane = 0; lane < options_.num_lanes; ++lane) {
    if (added[lane] > options_.lane_capacity - own.size(lane)) {
      refuse_full(lane, own.size(lane), rows);
    }
  }
  return rows;
}

void RowWriter::extend_from(Storage& source, void* source_stream, py::handle lanes) {
  if (source.size() == 0) return;
  // Here other code may run.
  const std::vector<std::uint32_t> targets = read_targets(lanes, source.lanes().num_lanes());
  const std::vector<std::size_t> fields = match_fields(source.layout());
  // A copy stays as it is while this storage changes, which may be the source.
  std::unique_ptr<Store> copy;
  auto* store = dynamic_cast<Store*>(&source);
  if (&source == &storage_ || store == nullptr) {
    copy = copy_to_host(source, source_stream);
    store = copy.get();
  }
  gather_lock_.wait();
  // From here on none does.
  void* const stream = options_.stream();
  const std::size_t rows = require_room_for(store->view(), targets);
  StepReader reader(*store, fields);
  std::vector<std::uint32_t> lane_of_each(reader.most());
  storage_.reserve(rows, stream);
  StepReader::Part part;
  while (reader.next(part)) {
    const std::uint32_t target = targets[part.lane];
    if (part.is_first) storage_.end_episode(target, stream);
    std::fill_n(lane_of_each.begin(), part.count, target);
    const LaneOrder order = {.lanes = lane_of_each.data(), .num_lanes = options_.num_lanes};
    storage_.append(order, part.source, part.count, stream);
  }
}

}  // namespace velora
