#include "core/device_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "core/draw.h"
#include "core/errors.h"
#include "core/round_up.h"
#include "core/time_order.h"

namespace velora {
namespace {

constexpr std::size_t kDeviceAlignment = 256;

std::size_t align(std::size_t bytes) { return round_up(bytes, kDeviceAlignment); }

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
              .word_log2 = word_log2(column),
              .next = column.source == Source::kNext};
    words += column.nbytes >> out[c].word_log2;
  }
  return words;
}

/// The same target, `rows` places further on. `columns` is memory for its columns.
BatchTarget advance(const BatchTarget& target, std::uint64_t rows, std::vector<Column>& columns) {
  const auto move = [rows](auto*& part) {
    if (part != nullptr) part += rows;
  };
  columns.assign(target.columns, target.columns + target.num_columns);
  for (Column& column : columns) column.out += rows * column.nbytes;
  BatchTarget moved = target;
  moved.columns = columns.data();
  move(moved.rewards);
  move(moved.dones);
  move(moved.truncations);
  move(moved.discounts);
  move(moved.is_first);
  move(moved.indices);
  return moved;
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

void DeviceStore::append(const LaneOrder& lanes, const RowSource& source, std::size_t count,
                         void* stream) {
  std::uint32_t lane = lanes.before_first();
  for (std::size_t i = 0; i < count; ++i) {
    lane = lanes.next(i, lane);
    std::byte* row = next_row(stream);
    for (std::size_t f = 0; f < layout_.fields().size(); ++f) {
      const Field& field = layout_.fields()[f];
      std::memcpy(row + field.offset, source.fields[f] + i * field.nbytes, field.nbytes);
    }
    const std::uint8_t flags = lanes_.next_flags(lane, source.flags(i));
    row[layout_.flags_offset()] = std::byte{flags};
    commit(lane, flags);
  }
}

void DeviceStore::commit(std::uint32_t lane, std::uint8_t flags) {
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
  lanes_.commit(lane, flags);
  changed_ = true;
}

void DeviceStore::end_episode(std::uint32_t lane) {
  const LaneState before = lanes_.states()[lane];
  if (!lanes_.end_episode(lane)) return;
  const RowId newest = {lane, before.pushed - 1};
  const std::uint8_t flags = kTruncated | (before.episode == newest.serial ? kFirst : 0);
  ended_.push_back({newest, flags});
  changed_ = true;
}

void DeviceStore::clear() {
  lanes_.clear();
  changed_ = true;
}

void DeviceStore::flush(void* stream) {
  if (!changed_) return;
  join(stream);
  const std::size_t pitch = layout_.pitch();
  for (const Run& run : runs_) {
    // Rows that newer ones pushed out, or that were cleared, stay behind.
    const std::uint64_t serial = std::max(run.serial, view().begin(run.lane));
    if (serial >= run.serial + run.count) continue;
    each_piece(view(), {run.lane, serial}, run.serial + run.count - serial,
               [&](const std::byte* device, RowId first, std::uint64_t count) {
                 runtime_->copy_to_device(const_cast<std::byte*>(device),
                                          run.rows + (first.serial - run.serial) * pitch,
                                          count * pitch, stream);
               });
  }
  for (const Ended& ended : ended_) {
    if (!view().alive(ended.row)) continue;  // another row may be in its place
    if (!buffer_.has_room(1)) {
      mark(buffer_.sent(stream), stream);
      buffer_.turn();
    }
    *buffer_.next() = std::byte{ended.flags};
    std::byte* row = rows() + view().place(ended.row) * pitch;
    runtime_->copy_to_device(row + layout_.flags_offset(), buffer_.next(), 1, stream);
    buffer_.advance(1);
  }
  if (!buffer_.has_room(states_bytes())) {
    mark(buffer_.sent(stream), stream);
    buffer_.turn();
  }
  std::memcpy(buffer_.next(), lanes_.states(), states_bytes());
  runtime_->copy_to_device(memory_.data(), buffer_.next(), states_bytes(), stream);
  buffer_.advance(states_bytes());
  mark(buffer_.sent(stream), stream);
  runs_.clear();
  ended_.clear();
  changed_ = false;
}

void DeviceStore::gather_params(const BatchTarget& target, std::uint64_t count, void* stream,
                                GatherParams* out) {
  out->view = lanes_.view(rows(), layout_, reinterpret_cast<const LaneState*>(memory_.data()));
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

void DeviceStore::sample(std::uint64_t count, const BatchTarget& target, void* stream) {
  const std::uint64_t most = std::min(view().size(), kMaxDraw);
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
  if (count > SampleParams::kMaxBlockDraw) {
    params.draw_space = draw_space(static_cast<std::uint32_t>(count));
  }
  runtime_->launch_sample(params, stream);
  runtime_->record(read_.get(), stream);
  mark(read_.get(), stream);
}

void DeviceStore::take(std::uint64_t start, std::uint64_t count, const BatchTarget& target,
                       void* stream) {
  if (count == 0) return;
  flush(stream);
  join(stream);
  TakeParams params = {};
  if (view().is_even()) {
    gather_params(target, count, stream, &params.gather);
    params.only = {RowId::kNoLane, 0};
    params.start = start;
    launch_take(params, stream);
    return;
  }
  std::vector<RowId> ids;
  std::vector<Column> columns;
  find_in_time_order(view(), start, count, ids);
  for (std::uint64_t i = 0; i < count; ++i) {
    gather_params(advance(target, i, columns), 1, stream, &params.gather);
    params.only = ids[i];
    launch_take(params, stream);
  }
}

void DeviceStore::launch_take(const TakeParams& params, void* stream) {
  runtime_->launch_take(params, stream);
  runtime_->record(read_.get(), stream);
  mark(read_.get(), stream);
}

void DeviceStore::restore(std::span<const SavedLane> lanes, std::span<const std::byte> rows,
                          void* stream) {
  const std::size_t pitch = layout_.pitch();
  lanes_.check(lanes, rows.size());
  flush(stream);  // what waits has serials that are about to name other rows
  lanes_.restore(lanes);
  changed_ = true;
  const std::byte* in = rows.data();
  for (std::uint32_t lane = 0; lane < lanes.size(); ++lane) {
    for (std::uint64_t serial = lanes[lane].first; serial < lanes[lane].pushed; ++serial) {
      std::memcpy(next_row(stream), in, pitch);
      commit(lane, static_cast<std::uint8_t>(in[layout_.flags_offset()]));
      in += pitch;
    }
  }
}

void DeviceStore::save(std::span<std::byte> rows, void* stream) {
  flush(stream);
  join(stream);
  const std::size_t pitch = layout_.pitch();
  std::byte* out = rows.data();
  for (std::uint32_t lane = 0; lane < extent_.num_lanes; ++lane) {
    const RowId begin = {lane, view().begin(lane)};
    const std::uint64_t size = view().size(lane);
    each_piece(view(), begin, size, [&](const std::byte* device, RowId first, std::uint64_t count) {
      runtime_->copy_to_host(out + (first.serial - begin.serial) * pitch, device, count * pitch,
                             stream);
    });
    out += size * pitch;
  }
  runtime_->synchronize(stream);
}

}  // namespace velora
