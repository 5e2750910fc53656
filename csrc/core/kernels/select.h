#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/draw.h"
#include "core/kernels/launch.h"
#include "core/rows/rows_view.h"
#include "core/values/macros.h"

namespace velora {

/// How a launch chooses its rows.
enum class SelectKind : std::uint8_t {
  kUniform,    // a draw without replacement of all live rows
  kReplaced,   // the same with replacement
  kTimeOrder,  // live rows in time order, of lanes that all hold as many
  kListed,     // rows of a list, alive or not
};

/// The rows that a launch reads, which come to its elements 0, 1, 2 and so on.
struct SelectParams {
  SelectKind kind;
  std::uint64_t count;                 // elements
  std::uint64_t start = 0;             // of kTimeOrder: the position of element 0
  const std::uint64_t* ids = nullptr;  // of kListed: packed, in memory that the device reads
  /// Null where the launch is no draw. A draw, made by the launch or listed by the host, moves the
  /// device's number of draws on.
  LaunchCounters* counters = nullptr;
  /// Of a kUniform draw that all groups make together: of more than DrawSpace::kMaxInBlock, and
  /// wherever they wait for each other anyway. Otherwise null.
  std::byte* space = nullptr;

  /// Bytes that the threads of a block share, where blocks do not wait for each other.
  std::size_t block_bytes() const {
    if (kind == SelectKind::kReplaced) return sizeof(std::uint64_t);  // the number of the draw
    return kind == SelectKind::kUniform ? DrawSpace::nbytes(static_cast<std::uint32_t>(count)) : 0;
  }
};

namespace device {

/// Element of a launch -> its row, of no lane where there is none. All of it is known when select()
/// has run.
struct Selection {
  const LaunchRows& rows;
  const RowsView& view;  // of them
  const SelectParams& params;
  std::uint64_t even;  // rows of each lane; 0: they differ
  /// Of kUniform: element -> position; of kReplaced: the number of the draw. Null: there are too
  /// few rows.
  const std::uint64_t* drawn;

  VELORA_HD RowId operator()(std::uint64_t i) const {
    switch (params.kind) {
      case SelectKind::kUniform:
        return drawn != nullptr ? view.locate(drawn[i], even) : no_row();
      case SelectKind::kReplaced:
        return drawn != nullptr ? replaced(static_cast<std::uint32_t>(i)) : no_row();
      case SelectKind::kTimeOrder:
        return in_time_order(params.start + i);
      default:
        return listed(RowId::unpack(params.ids[i]));
    }
  }

 private:
  VELORA_HD static RowId no_row() { return {RowId::kNoLane, 0}; }
  VELORA_HD RowId replaced(std::uint32_t i) const {
    const DrawKey key = {.seed = rows.control->seed, .draw = *drawn};
    return view.locate(bounded(random_bits(key, i, 0), view.size()), even);
  }
  VELORA_HD RowId listed(RowId id) const { return view.alive(id) ? id : no_row(); }
  VELORA_HD RowId in_time_order(std::uint64_t position) const {
    const bool is_even = view.num_lanes == 1 || even != 0;
    return is_even && position < view.size() ? view.in_time_order(position) : no_row();
  }
};

/// Chooses the rows of a launch, all threads of a group together. The threads of a draw share
/// `memory`: `params.space`, or block_bytes() of a block's own.
VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline Selection select(const Group& group, const LaunchRows& rows,
                                  const SelectParams& params, std::byte* memory) {
  const std::uint64_t* drawn = nullptr;
  if (params.kind == SelectKind::kUniform) {
    const auto count = static_cast<std::uint32_t>(params.count);
    const DrawSpace space = DrawSpace::in(memory, count);
    count_draw(group, rows.control, params.counters, space.number);
    const std::uint64_t bound = rows.view.size();
    if (bound >= count) {
      draw(group, {.seed = rows.control->seed, .draw = *space.number}, bound, count, space);
      drawn = space.drawn;
    }
  } else if (params.kind == SelectKind::kReplaced) {
    auto* number = reinterpret_cast<std::uint64_t*>(memory);
    count_draw(group, rows.control, params.counters, number);
    if (rows.view.size() > 0) drawn = number;
  } else if (params.counters != nullptr) {
    count_draw(group, rows.control, params.counters, nullptr);
  }
  // Lanes may hold more rows by now than when the launch was queued.
  const std::uint64_t even = rows.view.find_even_size();
  return {.rows = rows, .view = rows.view, .params = params, .even = even, .drawn = drawn};
}

}  // namespace device
}  // namespace velora
