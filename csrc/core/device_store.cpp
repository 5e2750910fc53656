#include "core/device_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <limits>
#include <string>
#include <utility>

#include "core/errors.h"
#include "core/store.h"

namespace velora {
namespace {

constexpr std::size_t kDeviceAlignment = 256;
constexpr std::uint64_t kMaxDraw = std::numeric_limits<std::uint32_t>::max() / 16;

std::size_t align(std::size_t bytes) {
  return (bytes + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment;
}

Memory allocate_head(const RowExtent& extent) {
  extent.check();
  return Memory::anonymous(Lanes::nbytes(extent.num_lanes), "lanes");
}

/// The widest word that divides both the column and its places.
std::uint32_t word_log2(const Column& column) {
  constexpr std::uint64_t kWidest = 16;
  const std::uint64_t bits =
      column.row_offset | column.nbytes | kWidest | reinterpret_cast<std::uintptr_t>(column.out);
  return static_cast<std::uint32_t>(std::countr_zero(bits));
}

/// Returns the words of one row.
std::uint64_t describe_columns(const BatchTarget& target, DeviceColumn* out) {
  std::uint64_t words = 0;
  for (std::uint32_t c = 0; c < target.num_columns; ++c) {
    const Column& column = target.columns[c];
    out[c] = {.row_offset = column.row_offset,
              .nbytes = column.nbytes,
              .first_word = words,
              .out = column.out,
              .word_log2 = word_log2(column)};
    words += column.nbytes >> out[c].word_log2;
  }
  return words;
}

}  // namespace

DeviceStore::DeviceStore(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
                         std::uint64_t seed, DeviceRuntime& runtime, std::size_t half_bytes)
    : layout_(std::move(layout)),
      extent_{lane_capacity, num_lanes, layout_.pitch()},
      head_(allocate_head(extent_)),
      lanes_(head_.data(), extent_, seed),
      runtime_(&runtime),
      columns_offset_(align(states_bytes())),
      rows_offset_(columns_offset_ + align(columns_bytes())),
      memory_(runtime, runtime.allocate_device(nbytes(), extent_.describe().c_str())),
      buffer_(runtime, std::max({half_bytes, layout_.pitch() + states_bytes(), columns_bytes()})),
      read_(runtime, runtime.create_event()) {}

DeviceStore::~DeviceStore() {
  try {
    if (last_event_ != nullptr) runtime_->synchronize_event(last_event_);
  } catch (const std::exception&) {
    return;  // the device failed: it reads nothing any more
  }
}

void DeviceStore::join(void* stream) {
  if (last_event_ != nullptr && stream != last_stream_) runtime_->wait(last_event_, stream);
}

void DeviceStore::mark(void* event, void* stream) {
  last_event_ = event;
  last_stream_ = stream;
}

std::byte* DeviceStore::next_row(void* stream) {
  // With the row there must be room for the lane states that follow it.
  if (!buffer_.has_room(layout_.pitch() + states_bytes())) {
    flush(stream);
    buffer_.turn();
  }
  return buffer_.next();
}

void DeviceStore::commit(std::uint32_t lane) {
  const std::uint64_t serial = lanes_.states()[lane].pushed;
  const std::byte* row = buffer_.next();
  Run* last = runs_.empty() ? nullptr : &runs_.back();
  if (last != nullptr && last->lane == lane && last->serial + last->count == serial &&
      last->rows + last->count * layout_.pitch() == row) {
    ++last->count;
  } else {
    runs_.push_back({.lane = lane, .serial = serial, .count = 1, .rows = row});
  }
  buffer_.advance(layout_.pitch());
  lanes_.commit(lane);
  changed_ = true;
}

void DeviceStore::skip(std::uint32_t lane, std::uint64_t count) {
  lanes_.skip(lane, count);
  changed_ = true;
}

void DeviceStore::clear() {
  lanes_.clear();
  changed_ = true;
}

template <typename Copy>
void DeviceStore::each_piece(RowId first, std::uint64_t end, const Copy& copy) const {
  const RowsView view = this->view();
  while (first.serial < end) {
    const std::uint64_t slot = view.slot(first);
    const std::uint64_t count = std::min(end - first.serial, view.lane_capacity - slot);
    copy(rows() + (std::uint64_t{first.lane} * view.lane_capacity + slot) * view.pitch, first,
         count);
    first.serial += count;
  }
}

void DeviceStore::flush(void* stream) {
  if (!changed_) return;
  join(stream);
  const std::size_t pitch = layout_.pitch();
  for (const Run& run : runs_) {
    // Rows that newer ones pushed out, or that were cleared, stay behind.
    const std::uint64_t serial = std::max(run.serial, view().begin(run.lane));
    each_piece({run.lane, serial}, run.serial + run.count,
               [&](std::byte* device, RowId first, std::uint64_t count) {
                 runtime_->copy_to_device(device, run.rows + (first.serial - run.serial) * pitch,
                                          count * pitch, stream);
               });
  }
  // Without room for the states there are no rows in this half either: next_row saw to it.
  if (!buffer_.has_room(states_bytes())) buffer_.turn();
  std::memcpy(buffer_.next(), lanes_.states(), states_bytes());
  runtime_->copy_to_device(memory_.data(), buffer_.next(), states_bytes(), stream);
  buffer_.advance(states_bytes());
  mark(buffer_.sent(stream), stream);
  runs_.clear();
  changed_ = false;
}

void DeviceStore::gather_params(const BatchTarget& target, std::uint64_t count, void* stream,
                                GatherParams* out) {
  out->view = view();
  out->view.lanes = reinterpret_cast<const LaneState*>(memory_.data());
  out->target = target;
  out->target.columns = nullptr;
  out->count = count;
  if (target.num_columns <= GatherParams::kInlineColumns) {
    out->words = describe_columns(target, out->inline_columns);
    return;
  }
  const std::size_t bytes = target.num_columns * sizeof(DeviceColumn);
  if (!buffer_.has_room(bytes)) buffer_.turn();
  out->words = describe_columns(target, reinterpret_cast<DeviceColumn*>(buffer_.next()));
  std::byte* columns = memory_.data() + columns_offset_;
  runtime_->copy_to_device(columns, buffer_.next(), bytes, stream);
  buffer_.advance(bytes);
  mark(buffer_.sent(stream), stream);
  out->columns = reinterpret_cast<const DeviceColumn*>(columns);
}

std::byte* DeviceStore::draw_space(std::uint32_t count) {
  const std::size_t bytes = DrawSpace::nbytes(count);
  if (bytes > draw_space_bytes_) {
    const std::size_t grown = std::bit_ceil(bytes);
    draw_spaces_.emplace_back(*runtime_, runtime_->allocate_device(grown, "batch_size"));
    draw_space_bytes_ = grown;
  }
  return draw_spaces_.back().data();
}

void DeviceStore::sample(std::uint32_t lane, std::uint64_t count, const BatchTarget& target,
                         void* stream) {
  const std::uint64_t most = std::min(view().size(lane), kMaxDraw);
  if (count > most) {
    throw ValueError("batch_size: expected at most " + std::to_string(most) + ", got " +
                     std::to_string(count));
  }
  if (count == 0) return;
  flush(stream);
  join(stream);
  SampleParams params = {};
  gather_params(target, count, stream, &params.gather);
  params.key = lanes_.next_draw();
  params.lane = lane;
  if (count > SampleParams::kMaxBlockDraw) {
    params.draw_space = draw_space(static_cast<std::uint32_t>(count));
  }
  runtime_->launch_sample(params, stream);
  runtime_->record(read_.get(), stream);
  mark(read_.get(), stream);
}

void DeviceStore::take(RowId first, std::uint64_t count, const BatchTarget& target, void* stream) {
  if (count == 0) return;
  flush(stream);
  join(stream);
  TakeParams params = {};
  gather_params(target, count, stream, &params.gather);
  params.first = first;
  runtime_->launch_take(params, stream);
  runtime_->record(read_.get(), stream);
  mark(read_.get(), stream);
}

void DeviceStore::restore(std::uint32_t lane, std::uint64_t pushed, std::span<const std::byte> rows,
                          void* stream) {
  const std::size_t pitch = layout_.pitch();
  const std::uint64_t count = count_rows(rows, pitch);
  flush(stream);  // what waits has serials that are about to name other rows
  lanes_.rewind(lane, pushed, count);
  changed_ = true;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::memcpy(next_row(stream), rows.data() + i * pitch, pitch);
    commit(lane);
  }
}

void DeviceStore::copy_rows(std::uint32_t lane, std::span<std::byte> rows, void* stream) {
  flush(stream);
  join(stream);
  const std::size_t pitch = layout_.pitch();
  const RowId begin = {lane, view().begin(lane)};
  each_piece(begin, view().end(lane), [&](std::byte* device, RowId first, std::uint64_t count) {
    runtime_->copy_to_host(rows.data() + (first.serial - begin.serial) * pitch, device,
                           count * pitch, stream);
  });
  runtime_->synchronize(stream);
}

}  // namespace velora
