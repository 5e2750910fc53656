#include "core/device/columns.h"

#include <algorithm>
#include <bit>

#include "core/device/write_buffer.h"

namespace velora {

std::size_t host_step_bytes(const RowLayout& layout, LaneRange lanes, const MixedSource& source) {
  std::size_t bytes = 0;
  const auto add = [&](const std::byte* rows, std::size_t nbytes, bool on_device) {
    if (rows != nullptr && !on_device) bytes += DeviceWriteBuffer::align(nbytes * lanes.count);
  };
  for (std::size_t f = 0; f < layout.fields().size(); ++f) {
    add(source.rows.fields[f], layout.fields()[f].nbytes, source.on_device[f]);
  }
  add(source.rows.done, 1, source.done_on_device);
  add(source.rows.truncated, 1, source.truncated_on_device);
  return bytes;
}

namespace {

/// Adds a column for each frame of a stack; what is none goes with the newest frame.
void add_frames(const Column& column, std::uint32_t frame_stack, std::vector<DeviceColumn>& out) {
  const std::uint64_t nbytes = column.nbytes / column.frames;
  for (std::uint32_t f = 0; f < column.frames; ++f) {
    const std::uint32_t frame = column.frames > 1 ? f : frame_stack - 1;
    out.push_back({.nbytes = nbytes,
                   .memory = column.out + f * nbytes,
                   .block_offset = column.block_offset,
                   .row_offset = static_cast<std::uint32_t>(column.row_offset),
                   .source = column.source,
                   .frame = static_cast<std::uint8_t>(frame),
                   .frames = static_cast<std::uint8_t>(column.frames)});
  }
}

}  // namespace

std::vector<DeviceColumn> device_columns(const BatchTarget& target, std::uint32_t frame_stack) {
  std::vector<DeviceColumn> columns;
  columns.reserve(target.num_columns);
  for (std::uint32_t c = 0; c < target.num_columns; ++c) {
    const Column& column = target.columns[c];
    if (column.source >= Source::kFrames) {
      add_frames(column, frame_stack, columns);
    } else {
      columns.push_back({.nbytes = column.nbytes,
                         .memory = column.out,
                         .row_offset = static_cast<std::uint32_t>(column.row_offset),
                         .source = column.source});
    }
  }
  return columns;
}

std::size_t columns_bytes(std::size_t count) {
  const bool fit = count <= DeviceColumns::kInline;
  return fit ? 0 : DeviceWriteBuffer::align(count * sizeof(DeviceColumn));
}

std::size_t columns_bytes(const BatchTarget& target) {
  std::size_t count = 0;
  for (std::uint32_t c = 0; c < target.num_columns; ++c) count += target.columns[c].frames;
  return columns_bytes(count);
}

void lay_out_columns(std::vector<DeviceColumn>& columns, std::byte*& lists, DeviceColumns* out) {
  constexpr std::uint64_t kWidest = 16;
  out->words = 0;
  for (DeviceColumn& column : columns) {
    const std::uint64_t bits = column.row_offset | column.nbytes | column.block_offset | kWidest |
                               reinterpret_cast<std::uintptr_t>(column.memory);
    column.word_log2 = static_cast<std::uint8_t>(std::countr_zero(bits));
    column.first_word = static_cast<std::uint32_t>(out->words);
    out->words += column.nbytes >> column.word_log2;
  }
  const std::size_t elsewhere = columns_bytes(columns.size());
  auto* memory = elsewhere == 0 ? out->here : reinterpret_cast<DeviceColumn*>(lists);
  std::copy(columns.begin(), columns.end(), memory);
  out->elsewhere = elsewhere == 0 ? nullptr : reinterpret_cast<const DeviceColumn*>(lists);
  lists += elsewhere;
}

}  // namespace velora
