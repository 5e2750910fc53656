#include "core/device/store.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "core/device/columns.h"
#include "core/values/errors.h"
#include "core/values/round_up.h"

namespace velora {
namespace {

constexpr std::size_t kDeviceAlignment = 256;

Memory allocate_lanes(const RowExtent& extent, DeviceRuntime& runtime, void* stream) {
  extent.check();
  if (runtime.is_capturing(stream)) {
    throw DeviceError(
        "a new buffer: expected a stream that runs, got one that a CUDA graph captures");
  }
  return Memory::anonymous(Lanes::nbytes(extent.num_lanes), "lanes");
}

std::size_t header_bytes(std::uint32_t num_lanes) {
  return round_up(DeviceHead::nbytes(num_lanes), kDeviceAlignment);
}

std::size_t device_bytes(const RowExtent& extent, StorageKind kind) {
  const std::size_t header = header_bytes(extent.num_lanes);
  const std::size_t rows = kind == StorageKind::kDevice ? extent.nbytes() : 0;
  return rows > SIZE_MAX - header ? SIZE_MAX : header + rows;
}

PinnedMemory allocate_rows(DeviceRuntime& runtime, const RowExtent& extent, StorageKind kind) {
  if (kind == StorageKind::kDevice) return {};
  return {runtime, runtime.allocate_pinned(extent.nbytes(), extent.describe().c_str())};
}

/// How many groups of threads share the rows of the same lanes: enough to have the whole device
/// work on few lanes, and none with less to do than is worth its launch.
std::uint64_t num_slices(LaneRange lanes, std::uint64_t steps, std::uint64_t words) {
  constexpr std::uint64_t kMostGroups = 1024;
  constexpr std::uint64_t kLeastWords = 4096;
  const std::uint64_t parts = (lanes.count + std::uint64_t{kLanesOfGroup} - 1) / kLanesOfGroup;
  const std::uint64_t lanes_of_part = std::min(lanes.count, kLanesOfGroup);
  const std::uint64_t useful = steps * lanes_of_part * words / kLeastWords;
  return std::clamp<std::uint64_t>(std::min(useful, kMostGroups / parts), 1, steps);
}

}  // namespace

DeviceStore::DeviceStore(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
                         std::uint64_t seed, const Device& device, StorageKind kind, void* stream,
                         std::size_t half_bytes)
    : layout_(std::move(layout)),
      extent_{lane_capacity, num_lanes, layout_.pitch(), layout_.frame_stack() - 1},
      lanes_memory_(allocate_lanes(extent_, device.runtime, stream)),
      lanes_(lanes_memory_.data(), extent_, seed),
      sizes_(num_lanes),
      runtime_(device.runtime),
      allocator_(device.allocator),
      memory_(allocator_, device_bytes(extent_, kind), extent_.describe().c_str()),
      pinned_claim_(kind == StorageKind::kPinned
                        ? MemoryClaim(extent_.nbytes(), extent_.describe().c_str())
                        : MemoryClaim()),
      pinned_rows_(allocate_rows(runtime_, extent_, kind)),
      rows_(kind == StorageKind::kDevice ? memory_.data() + header_bytes(num_lanes)
                                         : pinned_rows_.data()),
      head_(memory_.data(), num_lanes),
      buffer_(runtime_, std::max(half_bytes, DeviceStaging::least_half(layout_, num_lanes))),
      staging_(layout_, lanes_, sizes_, buffer_, rows_, head_),
      blocks_(layout_.compact() ? std::make_unique<DeviceBlocks>(layout_, extent_, allocator_)
                                : nullptr),
      order_(runtime_) {
  order_.end(stream);  // what others still do to the memory that this has now
}

DeviceStore::~DeviceStore() {
  try {
    order_.drain();
  } catch (const std::exception&) {
    return;  // the device failed: it reads nothing any more
  }
}

std::size_t DeviceStore::nbytes() const {
  const std::size_t blocks = blocks_ ? blocks_->nbytes() : 0;
  return header_bytes(extent_.num_lanes) + extent_.nbytes() + blocks;
}

void DeviceStore::require_running(const char* what, void* stream) {
  if (!runtime_.is_capturing(stream)) return;
  throw DeviceError(std::string(what) +
                    ": expected a stream that runs, got one that a CUDA graph captures; of a "
                    "buffer, only sample() and sample_sequences(boundary='pad') can be captured");
}

/// `bytes` of the write buffer for what is about to be queued. Nothing waits there then.
std::byte* DeviceStore::take_staged(std::size_t bytes, void* stream) {
  if (!buffer_.has_room(bytes)) {
    flush(stream);
    if (DeviceWriteBuffer::align(bytes) <= buffer_.half_bytes()) {
      buffer_.swap_halves();
    } else {
      buffer_.grow(bytes);
    }
  }
  return buffer_.take(bytes);
}

void DeviceStore::make_room(void* stream, std::size_t count) {
  if (staging_.has_room(count)) return;
  flush(stream);
  buffer_.swap_halves();
}

/// A graph may run next, which does not ask us. What fails is for the next call to report: what
/// was stored is there, and waits.
void DeviceStore::flush_for_graphs(void* stream) noexcept {
  if (!order_.captured()) return;
  try {
    flush(stream);
  } catch (const std::exception&) {
    return;
  }
}

void DeviceStore::reserve(std::size_t rows, void* stream) {
  require_running("push", stream);
  learn_episodes(stream);
  if (blocks_) reserve_blocks(rows, stream);
  make_room(stream, rows);
}

void DeviceStore::append(const LaneOrder& order, const RowSource& source, std::size_t count,
                         void* stream) {
  reserve(count, stream);  // now, while nothing is stored
  std::uint32_t lane = order.before_first();
  for (std::size_t i = 0; i < count; ++i) {
    lane = order.next(i, lane);
    make_room(stream);
    std::byte* row = staging_.next_row();
    if (blocks_) blocks_->write(lanes_, view(), lane, row, source, i, staging_);
    for (std::size_t f = 0; f < layout_.fields().size(); ++f) {
      const Field& field = layout_.fields()[f];
      if (blocks_ && (field.role == Role::kState || field.role == Role::kNextState)) continue;
      std::memcpy(row + field.offset, source.fields[f] + i * field.nbytes, field.nbytes);
    }
    row[layout_.flags_offset()] = std::byte{lanes_.next_flags(lane, source.flags(i))};
    commit(lane, row);
  }
  flush_for_graphs(stream);
}

void DeviceStore::reserve_blocks(std::size_t rows, void* stream) {
  blocks_->reserve(rows);
  order_.end(stream);  // what others still do to the memory that this has now
  while (!blocks_->announce(staging_)) make_room(stream);
}

void DeviceStore::commit(std::uint32_t lane, const std::byte* row) {
  const RowId id = {lane, lanes_.states()[lane].pushed};
  const std::byte flags = row[layout_.flags_offset()];
  flags_.push(lanes_.next_row_index(lane), id, flags);
  lanes_.commit(lane, static_cast<std::uint8_t>(flags));
  staging_.add(id, row);
}

void DeviceStore::append_columns(LaneRange lanes, std::uint64_t steps, const MixedSource& source,
                                 void* stream) {
  require_running("push", stream);
  flush(stream);
  knows_episodes_ = false;
  const std::size_t host_bytes = std::max<std::size_t>(1, host_step_bytes(layout_, lanes, source));
  const std::uint64_t most = std::max<std::uint64_t>(1, buffer_.half_bytes() / 2 / host_bytes);
  for (std::uint64_t done = 0; done < steps;) {
    const std::uint64_t part = std::min(most, steps - done);
    const AppendParams params = append_params(lanes, done, part, source, stream);
    order_.begin(stream);
    runtime_.launch_append(params, stream);
    buffer_.sent(stream);
    order_.end(stream);
    if (lanes.count == extent_.num_lanes) {
      pending_steps_ += part;
    } else {
      apply_pending();
      for (std::uint32_t l = 0; l < lanes.count; ++l) lanes_.advance(lanes.first + l, part);
    }
    done += part;
  }
}

AppendParams DeviceStore::append_params(LaneRange lanes, std::uint64_t first_step,
                                        std::uint64_t steps, const MixedSource& source,
                                        void* stream) {
  const std::uint64_t first_row = first_step * lanes.count;
  const std::uint64_t rows = steps * lanes.count;
  const std::size_t num_fields = layout_.fields().size();
  std::byte* staged = take_staged(
      host_step_bytes(layout_, lanes, source) * steps + columns_bytes(num_fields), stream);
  // Device data is read there, host data by way of the write buffer.
  const auto stage = [&](const std::byte* from, std::size_t nbytes, bool on_device) {
    if (from == nullptr) return static_cast<std::byte*>(nullptr);
    const std::byte* first = from + first_row * nbytes;
    if (on_device) return const_cast<std::byte*>(first);
    std::byte* copy = staged;
    std::memcpy(copy, first, rows * nbytes);
    staged += DeviceWriteBuffer::align(nbytes * lanes.count) * steps;
    return copy;
  };
  AppendParams params = {};
  params.view = device_view();
  params.ended = head_.ended();
  params.arrived = head_.arrived();
  params.first_lane = lanes.first;
  params.num_lanes = lanes.count;
  params.steps = steps;
  std::vector<DeviceColumn> columns;
  for (std::size_t f = 0; f < layout_.fields().size(); ++f) {
    const Field& field = layout_.fields()[f];
    std::byte* memory = stage(source.rows.fields[f], field.nbytes, source.on_device[f]);
    columns.push_back({.nbytes = field.nbytes,
                       .memory = memory,
                       .row_offset = static_cast<std::uint32_t>(field.offset)});
  }
  params.done.flags = stage(source.rows.done, 1, source.done_on_device);
  params.truncated.flags = stage(source.rows.truncated, 1, source.truncated_on_device);
  lay_out_columns(columns, staged, &params.columns);
  params.slices = num_slices(lanes, steps, params.columns.words);
  return params;
}

void DeviceStore::clear(void* stream) {
  require_running("clear", stream);
  flush(stream);
  apply_pending();
  order_.begin(stream);
  runtime_.launch_clear({.view = device_view()}, stream);
  order_.end(stream);
  lanes_.clear();
  if (blocks_) blocks_->clear();
}

void DeviceStore::flush(void* stream) {
  if (staging_.empty()) return;
  order_.begin(stream);
  std::byte* const tail = buffer_.take(0);
  try {
    runtime_.launch_write(staging_.pieces(), stream);
  } catch (...) {
    buffer_.give_back(tail);
    throw;
  }
  staging_.clear();
  buffer_.sent(stream);
  order_.end(stream);
}

void DeviceStore::learn_episodes(void* stream) {
  apply_pending();
  if (!knows_episodes_) fetch_lanes(stream);
}

void DeviceStore::settle(void* stream) {
  learn_episodes(stream);
  if (order_.captured()) fetch_lanes(stream);
}

void DeviceStore::fetch_lanes(void* stream) {
  require_running("lanes", stream);
  flush(stream);
  order_.begin(stream);
  std::vector<std::uint64_t> copy(Lanes::states_bytes(extent_.num_lanes) / sizeof(std::uint64_t));
  auto* memory = reinterpret_cast<std::byte*>(copy.data());
  runtime_.copy_to_host(memory, head_.data(), copy.size() * sizeof(std::uint64_t), stream);
  runtime_.synchronize(stream);
  lanes_.adopt(memory);
  knows_episodes_ = true;
}

void DeviceStore::set_seed(std::uint64_t seed, void* stream) {
  void* const running = runtime_.is_capturing(stream) ? order_.own_stream() : stream;
  flush(running);  // it may bring a seed, too
  make_room(running);
  lanes_.set_seed(seed);
  const ControlBlock& control = lanes_.control();
  const std::uint64_t seed_and_draws[] = {control.seed, control.draws};
  static_assert(offsetof(ControlBlock, draws) == offsetof(ControlBlock, seed) + sizeof(seed));
  staging_.write(reinterpret_cast<std::byte*>(&head_.control()->seed), seed_and_draws,
                 sizeof(seed_and_draws));
  flush_for_graphs(running);
}

void DeviceStore::import_rows(const SavedRows& saved, void* stream) {
  require_running("restore", stream);
  apply_pending();
  check_saved(saved, lanes_, layout_, blocks_ ? &blocks_->rule() : nullptr);
  const BoolFields bools(layout_);
  flush(stream);  // what waits has serials that are about to name other rows
  buffer_.swap_halves();
  if (blocks_) blocks_->restart(saved.blocks.size() / layout_.block_bytes());
  lanes_.restore(saved.lanes);
  lanes_.set_draws(saved.draws);
  knows_episodes_ = true;
  staging_.change_all();
  if (blocks_) restore_blocks(saved.blocks, bools, stream);
  const std::size_t pitch = layout_.pitch();
  std::span<const std::byte> rest = saved.rows;
  for (std::uint32_t lane = 0; lane < saved.lanes.size(); ++lane) {
    const std::size_t count = saved.lanes[lane].pushed - saved.lanes[lane].first;
    for (std::size_t i = 0; i < count; ++i) {
      const std::byte* in = rest.data() + i * pitch;
      make_room(stream);
      std::byte* row = staging_.next_row();
      std::memcpy(row, in, pitch);
      bools.clean_row(row);
      if (blocks_) blocks_->restore_links(lanes_.next_row_index(lane), in);
      commit(lane, row);
    }
    if (blocks_) blocks_->restore_lane(lane, rest.first(count * pitch), pitch, saved.blocks);
    rest = rest.subspan(count * pitch);
  }
  flush(stream);
}

void DeviceStore::restore_blocks(std::span<const std::byte> blocks, const BoolFields& bools,
                                 void* stream) {
  const std::size_t nbytes = layout_.block_bytes();
  const std::size_t count = blocks.size() / nbytes;
  reserve_blocks(0, stream);
  for (std::size_t i = 0; i < count; ++i) {
    make_room(stream);
    const auto number = static_cast<std::uint32_t>(i);
    std::byte* memory = staging_.block(blocks_->at(number), number, nbytes);
    std::memcpy(memory, blocks.data() + i * nbytes, nbytes);
    bools.clean_block(memory);
  }
}

void DeviceStore::export_rows(std::span<const RowRange> ranges, std::span<std::byte> rows,
                              const BlockMemory& block_memory, void* stream) {
  settle(stream);
  flush(stream);
  order_.begin(stream);
  const RowsView view = this->view();
  const bool pinned = pinned_rows_.get() != nullptr;
  if (pinned) runtime_.synchronize(stream);  // the host reads them by itself
  std::byte* out = rows.data();
  for (const RowRange& range : ranges) {
    const RowId first = {range.lane, range.first};
    each_piece(view, first, range.size(), [&](const std::byte* from, RowId, std::uint64_t size) {
      const std::size_t bytes = size * view.pitch;
      if (pinned) {
        std::memcpy(out, from, bytes);
      } else {
        runtime_.copy_to_host(out, from, bytes, stream);
      }
      out += bytes;
    });
  }
  if (!pinned) runtime_.synchronize(stream);
  if (!blocks_) return;
  const std::vector<const std::byte*> addresses = blocks_->renumber(rows, view.pitch);
  if (addresses.empty()) return;
  const std::size_t nbytes = layout_.block_bytes();
  std::byte* block = block_memory(addresses.size() * nbytes);
  for (const std::byte* address : addresses) {
    runtime_.copy_to_host(block, address, nbytes, stream);
    block += nbytes;
  }
  runtime_.synchronize(stream);
}

}  // namespace velora
