#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/gather.h"
#include "core/kernels/launch.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// Bytes that go from memory of the host's, which the device reads, to device memory.
struct WritePiece {
  /// The host cuts longer pieces, so that one team of threads does not have all the work.
  static constexpr std::uint64_t kMost = 4096;

  std::byte* to;
  const std::byte* from;
  std::uint64_t nbytes;
};

/// Pieces, no two of which overlap. Both the list and what it leads to are in memory
/// of the host's that the device reads.
struct WriteParams {
  /// Threads to a piece: a warp reads 512 bytes at once.
  static constexpr std::uint32_t kTeam = 32;

  const WritePiece* pieces;
  std::uint64_t count;
};

/// One flag of each row that is appended, of one byte each: set where it is not zero.
struct FlagColumn {
  const std::byte* flags;  // null: nowhere
};

/// `steps` rows of each of some neighbouring lanes, step by step, which lie as columns in memory
/// that the device reads. The device's own lane states say where they go, and which of them begin
/// an episode.
struct AppendParams {
  RowsView view;           // as in LaunchRows
  std::uint64_t* ended;    // lane -> one past the serial of the newest row that ended an episode
  std::uint32_t* arrived;  // for each kLanesOfGroup lanes; zero between launches
  std::uint32_t first_lane;
  std::uint32_t num_lanes;
  std::uint64_t steps;
  std::uint64_t slices;  // groups of threads that share the rows of the same lanes
  FlagColumn done;
  FlagColumn truncated;
  DeviceColumns columns;

  VELORA_HD std::uint64_t num_groups() const {
    return (num_lanes + std::uint64_t{kLanesOfGroup} - 1) / kLanesOfGroup * slices;
  }
};

/// Takes all rows out: Lanes::clear() on the device.
struct ClearParams {
  RowsView view;
};

namespace device {

/// The widest word that the addresses of a piece allow.
VELORA_HD inline std::uint32_t word_log2(const WritePiece& piece) {
  const std::uint64_t bits = reinterpret_cast<std::uintptr_t>(piece.to) |
                             reinterpret_cast<std::uintptr_t>(piece.from) | piece.nbytes;
  std::uint32_t log2 = 0;
  while (log2 < 4 && (bits >> log2 & 1) == 0) ++log2;
  return log2;
}

VELORA_HD inline void write_part(const WriteParams& params, std::uint32_t rank,
                                 std::uint32_t size) {
  each_item(params.count, WriteParams::kTeam, rank, size, [&](std::uint64_t i, TeamMember member) {
    const WritePiece piece = params.pieces[i];
    const std::uint32_t log2 = word_log2(piece);
    for (std::uint64_t word = member.rank; word < piece.nbytes >> log2; word += member.size) {
      copy_word(log2, piece.to, piece.from, word);
    }
  });
}

/// One thread's part: some lanes and some of the sums over them.
VELORA_HD inline void clear_part(const ClearParams& params, std::uint32_t rank,
                                 std::uint32_t size) {
  const RowsView& view = params.view;
  auto* lanes = const_cast<LaneState*>(view.lanes);
  for (std::uint64_t lane = rank; lane < view.num_lanes; lane += size) {
    lanes[lane].cleared = lanes[lane].pushed;
  }
  const std::uint64_t words = CountTree::num_words(view.num_lanes);
  for (std::uint64_t word = rank; word < words; word += size) view.sizes.levels[0][word] = 0;
  if (rank == 0) *const_cast<std::uint64_t*>(view.largest) = 0;
}

/// The flags that end an episode at source row `i`.
VELORA_HD inline std::uint8_t ends_of(const AppendParams& params, std::uint64_t i) {
  const auto set = [i](FlagColumn column) {
    return column.flags != nullptr && column.flags[i] != std::byte{0};
  };
  return static_cast<std::uint8_t>((set(params.done) ? kDone : 0) |
                                   (set(params.truncated) ? kTruncated : 0));
}

/// One thread's part of row `step` of a lane, which is source row `i`.
template <typename Atomics>
VELORA_HD inline void append_row(const AppendParams& params, std::uint32_t lane, std::uint64_t step,
                                 std::uint64_t i, TeamMember member) {
  const RowsView& view = params.view;
  const LaneState& state = view.lanes[lane];
  const std::uint64_t serial = state.pushed + step;
  const bool stays =
      step + view.lane_slots >= params.steps;  // no newer row of the launch goes there
  std::byte* row = const_cast<std::byte*>(view.rows) +
                   (std::uint64_t{lane} * view.lane_slots + serial % view.lane_slots) * view.pitch;
  if (stays) {
    each_word(params.columns, member, [&](const DeviceColumn& column, std::uint64_t word) {
      copy_word(column.word_log2, row + column.row_offset, column.row(i), word);
    });
  }
  if (member.rank != 0) return;
  const std::uint8_t ends = ends_of(params, i);
  if (ends != 0) Atomics::fetch_max(&params.ended[lane], serial + 1);
  if (!stays) return;
  const bool first =
      step == 0 ? state.episode == serial : ends_of(params, i - params.num_lanes) != 0;
  row[view.flags_offset] = std::byte{static_cast<std::uint8_t>(ends | (first ? kFirst : 0))};
}

/// Moves a lane on past the rows that were appended, and the sizes with it: launches that were
/// captured go by them, and no host need be asked.
template <typename Atomics>
VELORA_HD inline void commit_lane(const AppendParams& params, std::uint32_t lane) {
  const RowsView& view = params.view;
  LaneState& state = const_cast<LaneState*>(view.lanes)[lane];
  const std::uint64_t before = view.size(lane);
  state.prepare(params.steps, view.lane_slots, Atomics::load(&params.ended[lane]));
  state.pushed += params.steps;
  const std::uint64_t size = view.size(lane);
  if (size == before) return;
  std::uint64_t position = lane;
  for (std::uint32_t level = 0; level < view.sizes.num_levels; ++level) {
    Atomics::fetch_add(&view.sizes.levels[level][position], size - before);
    position /= CountTree::kFanOut;
  }
  Atomics::fetch_max(const_cast<std::uint64_t*>(view.largest), size);
}

/// Group `number` of the launch writes its part of the rows of its lanes. The group that comes last
/// moves their states on: until then all read them as they were.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void append(const Group& group, const AppendParams& params, std::uint64_t number) {
  using Atomics = typename Group::LaunchAtomics;
  const std::uint64_t part = number / params.slices;
  const auto begin = static_cast<std::uint32_t>(part * kLanesOfGroup);
  const std::uint32_t left = params.num_lanes - begin;
  const std::uint32_t lanes = left < kLanesOfGroup ? left : kLanesOfGroup;
  const std::uint64_t steps = (params.steps + params.slices - 1) / params.slices;
  const std::uint64_t first_step = number % params.slices * steps;
  const std::uint64_t end_step =
      first_step + steps < params.steps ? first_step + steps : params.steps;
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    if (first_step >= end_step) return;
    each_item((end_step - first_step) * lanes, params.columns.words, rank, size,
              [&](std::uint64_t item, TeamMember member) {
                const std::uint64_t step = first_step + item / lanes;
                const auto offset = begin + static_cast<std::uint32_t>(item % lanes);
                append_row<Atomics>(params, params.first_lane + offset, step,
                                    step * params.num_lanes + offset, member);
              });
    Atomics::fence();
  });
  const bool last = group.agree([&] {
    return is_last<Atomics>(&params.arrived[part], static_cast<std::uint32_t>(params.slices));
  });
  if (!last) return;
  group.run([&](std::uint32_t rank, std::uint32_t size) {
    for (std::uint32_t l = rank; l < lanes; l += size) {
      commit_lane<Atomics>(params, params.first_lane + begin + l);
    }
  });
}

}  // namespace device
}  // namespace velora
