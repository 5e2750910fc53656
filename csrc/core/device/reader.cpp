// Reads of a DeviceStore.

#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "core/device/columns.h"
#include "core/device/store.h"
#include "core/random/distinct_draw.h"
#include "core/samplers/time_order.h"

namespace velora {
namespace {

std::size_t ids_bytes(std::size_t count) {
  return DeviceWriteBuffer::align(count * sizeof(std::uint64_t));
}

/// Puts the names of rows into `lists`, of which it takes ids_bytes().
SelectParams select_listed(std::span<const RowId> ids, std::byte*& lists) {
  auto* out = reinterpret_cast<std::uint64_t*>(lists);
  for (std::size_t i = 0; i < ids.size(); ++i) out[i] = ids[i].packed();
  lists += ids_bytes(ids.size());
  return {.kind = SelectKind::kListed, .count = ids.size(), .ids = out};
}

std::size_t draw_bytes(std::uint64_t count) {
  return DeviceWriteBuffer::align(DrawSpace::nbytes(static_cast<std::uint32_t>(count)));
}

}  // namespace

void DeviceStore::apply_pending() {
  if (pending_steps_ == 0) return;
  for (std::uint32_t lane = 0; lane < extent_.num_lanes; ++lane) {
    lanes_.advance(lane, pending_steps_);
  }
  pending_steps_ = 0;
}

RowsView DeviceStore::view() {
  apply_pending();
  return known_view();
}

RowsView DeviceStore::device_view() const {
  RowsView view = known_view();
  view.lanes = head_.states();
  view.sizes = head_.sizes();
  view.largest = head_.largest();
  view.journal = nullptr;
  return view;
}

std::uint64_t DeviceStore::size() {
  const RowsView known = known_view();
  if (pending_steps_ > 0 && !known.is_even()) return view().size();
  const std::uint64_t each = std::min(known.size(0) + pending_steps_, extent_.lane_capacity);
  return pending_steps_ > 0 ? each * extent_.num_lanes : known.size();
}

std::byte* DeviceStore::begin_read(std::size_t bytes, void* stream) {
  capturing_ = runtime_.is_capturing(stream);
  has_lists_ = bytes > 0;
  if (!capturing_) {
    flush(stream);
    std::byte* lists = has_lists_ ? take_staged(bytes, stream) : nullptr;
    order_.begin(stream);
    return lists;
  }
  flush(order_.own_stream());  // now, and not each time that the graph runs
  std::byte* lists = nullptr;
  if (has_lists_) {
    captured_lists_.emplace_back(runtime_, runtime_.allocate_pinned(bytes, "columns"));
    lists = captured_lists_.back().data();
  }
  order_.begin_capture(stream);
  return lists;
}

void DeviceStore::end_read(void* stream) {
  if (capturing_) return order_.end_capture(stream);
  if (has_lists_) buffer_.sent(stream);
  order_.end(stream);
}

LaunchRows DeviceStore::launch_rows() const {
  return {.view = device_view(),
          .control = head_.control(),
          .compact = blocks_ != nullptr ? blocks_->view() : CompactView{}};
}

DeviceBatch DeviceStore::device_batch(const BatchTarget& target, std::byte*& lists) const {
  DeviceBatch batch = {};
  batch.target = target;
  batch.target.columns = nullptr;
  std::vector<DeviceColumn> columns = device_columns(target, layout_.frame_stack());
  lay_out_columns(columns, lists, &batch.columns);
  return batch;
}

std::byte* DeviceStore::draw_space(std::size_t bytes) {
  if (bytes > draw_space_bytes_) {
    const std::size_t grown = std::bit_ceil(bytes);
    draw_spaces_.emplace_back(allocator_, grown, "batch_size");
    draw_space_bytes_ = grown;
  }
  return draw_spaces_.back().data();
}

void DeviceStore::sample(std::uint64_t count, const BatchTarget& target, void* stream,
                         const PartRunner* /*runner*/) {
  check_draw(count, size());
  if (count == 0) return;
  std::byte* lists = begin_read(columns_bytes(target), stream);
  const bool in_block = count <= DrawSpace::kMaxInBlock;
  std::byte* space = in_block ? nullptr : draw_space(draw_bytes(count));
  runtime_.launch_batch({.rows = launch_rows(),
                         .select = {.kind = SelectKind::kUniform,
                                    .count = count,
                                    .counters = head_.counters(),
                                    .space = space},
                         .batch = device_batch(target, lists)},
                        stream);
  end_read(stream);
  lanes_.count_draw();
}

void DeviceStore::sample_replaced(std::uint64_t count, const BatchTarget& target, void* stream,
                                  const PartRunner* /*runner*/) {
  check_draw(count, size() > 0 ? kMaxDraw : 0);
  if (count == 0) return;
  std::byte* lists = begin_read(columns_bytes(target), stream);
  const SelectParams select = {
      .kind = SelectKind::kReplaced, .count = count, .counters = head_.counters()};
  runtime_.launch_batch(
      {.rows = launch_rows(), .select = select, .batch = device_batch(target, lists)}, stream);
  end_read(stream);
  lanes_.count_draw();
}

void DeviceStore::gather(const RowNames& names, const BatchTarget& target, void* stream,
                         const PartRunner* /*runner*/) {
  if (names.count == 0) return;
  const std::size_t names_bytes = names.on_device ? 0 : ids_bytes(names.count);
  std::byte* lists = begin_read(columns_bytes(target) + names_bytes, stream);
  SelectParams select = {.kind = SelectKind::kListed,
                         .count = names.count,
                         .ids = reinterpret_cast<const std::uint64_t*>(names.packed)};
  if (!names.on_device) {
    std::memcpy(lists, names.packed, names.count * sizeof(std::uint64_t));
    select.ids = reinterpret_cast<const std::uint64_t*>(std::exchange(lists, lists + names_bytes));
  }
  runtime_.launch_batch(
      {.rows = launch_rows(), .select = select, .batch = device_batch(target, lists)}, stream);
  end_read(stream);
}

void DeviceStore::take(std::uint64_t start, std::uint64_t count, const BatchTarget& target,
                       void* stream, const PartRunner* /*runner*/) {
  if (count == 0) return;
  RowIds ids;
  const RowsView rows = view();
  if (!rows.is_even()) {
    require_running("sample of environments with different numbers of steps", stream);
    TimeOrder order(start);
    order.catch_up(rows);
    order.begin(lanes_.next_draw(), count);
    ids.resize(count);
    order.next(ids);
  }
  std::byte* lists = begin_read(columns_bytes(target) + ids_bytes(ids.size()), stream);
  SelectParams select = {.kind = SelectKind::kTimeOrder, .count = count, .start = start};
  if (!ids.empty()) select = select_listed(ids, lists);
  runtime_.launch_batch(
      {.rows = launch_rows(), .select = select, .batch = device_batch(target, lists)}, stream);
  end_read(stream);
}

std::uint64_t DeviceStore::count_sequences(const SequenceSpec& spec, void* stream) {
  if (spec.boundary == SequenceBoundary::kPad) return size();
  const RowsView flags = flags_view(stream);
  return windows(flags, spec).size();
}

void DeviceStore::sample_sequences(const SequenceSpec& spec, std::uint64_t count,
                                   const SequenceTarget& target, void* stream,
                                   const PartRunner* /*runner*/) {
  check_draw(count, count_sequences(spec, stream));
  if (count == 0) return;
  std::vector<RowId> starts;
  if (spec.boundary != SequenceBoundary::kPad) {
    require_running("sample_sequences", stream);
    settle(stream);  // the number of draws
    const RowsView flags = flags_view(stream);
    Windows& from = windows(flags, spec);
    from.begin(lanes_.next_draw(), count);
    starts.resize(count);
    from.next(starts);
    if (count > kMostKept) scratch_ = {};
  }
  std::byte* lists = begin_read(
      columns_bytes(target.steps) + columns_bytes(target.firsts) + ids_bytes(starts.size()),
      stream);
  const std::size_t span_bytes = DeviceWriteBuffer::align(count * sizeof(SequenceSpan));
  std::byte* spans = draw_space(span_bytes + (starts.empty() ? draw_bytes(count) : 0));
  SelectParams select = {.kind = SelectKind::kUniform, .count = count, .space = spans + span_bytes};
  if (!starts.empty()) select = select_listed(starts, lists);
  select.counters = head_.counters();
  const SequenceParams params = {.rows = launch_rows(),
                                 .select = select,
                                 .steps = device_batch(target.steps, lists),
                                 .firsts = device_batch(target.firsts, lists),
                                 .length = static_cast<std::uint32_t>(spec.length),
                                 .burn_in = static_cast<std::uint32_t>(spec.burn_in),
                                 .crosses = spec.boundary == SequenceBoundary::kCross,
                                 .spans = reinterpret_cast<SequenceSpan*>(spans)};
  runtime_.launch_sequences(params, stream);
  end_read(stream);
  lanes_.count_draw();
}

RowsView DeviceStore::flags_view(void* stream) {
  const RowsView rows = view();
  flags_.catch_up(rows, [&](std::span<const RowId> ids) {
    require_running("sample_sequences", stream);
    fetch_flags(rows, ids, stream);
  });
  return flags_.view(rows);
}

Windows& DeviceStore::windows(const RowsView& flags, const SequenceSpec& spec) {
  return windows_.find(flags, spec.length, spec.boundary == SequenceBoundary::kCross);
}

void DeviceStore::fetch_flags(const RowsView& rows, std::span<const RowId> ids, void* stream) {
  const DeviceMemory memory(allocator_, ids.size(), "flags");
  const Column flags = {.row_offset = layout_.flags_offset(), .nbytes = 1, .out = memory.data()};
  BatchTarget target = {};
  target.columns = &flags;
  target.num_columns = 1;
  std::byte* lists = begin_read(ids_bytes(ids.size()), stream);
  runtime_.launch_batch({.rows = launch_rows(),
                         .select = select_listed(ids, lists),
                         .batch = device_batch(target, lists)},
                        stream);
  end_read(stream);
  std::vector<std::byte> bytes(ids.size());
  runtime_.copy_to_host(bytes.data(), flags.out, bytes.size(), stream);
  runtime_.synchronize(stream);
  for (std::size_t i = 0; i < ids.size(); ++i) flags_.set(rows.row_index(ids[i]), bytes[i]);
}

}  // namespace velora
