#pragma once

#include <cstdint>
#include <vector>

#include "core/memory/mapped_allocator.h"
#include "core/rows/rows_view.h"

namespace velora {

/// The names of the rows of a batch.
using RowIds = std::vector<RowId, MappedAllocator<RowId>>;

/// The `count` live rows from position `start` on, oldest first: the oldest row of each lane in the
/// order of lanes, then the second of each that has one, and so on. Lanes that are filled evenly
/// are thus read time step by time step.
///
/// O(count) where all lanes have as many rows, otherwise O(count + lanes * log rows).
/// Precondition: there are so many.
void find_in_time_order(const RowsView& view, std::uint64_t start, std::uint64_t count,
                        RowIds& out);

}  // namespace velora
