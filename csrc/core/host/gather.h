#pragma once

#include <cstddef>
#include <span>

#include "core/batch/target.h"
#include "core/rows/rows_view.h"
#include "core/samplers/sampler.h"

namespace velora {

class CompactRows;

/// Rows that are copied together. Parts of a batch are best made of whole blocks.
inline constexpr std::size_t kGatherBlock = 16;

/// Copies `count` rows to rows [first, first + count) of a batch, in their order. `compact` is
/// null where rows are whole. Reads rows ahead of their use, so that a batch costs about one memory
/// latency and not one for each row, and asks for their names while it waits.
void gather(const RowsView& view, const CompactRows* compact, RowStream& rows, std::size_t count,
            const BatchTarget& target, std::size_t first = 0);

/// The same for the live rows `ids`.
void gather(const RowsView& view, const CompactRows* compact, std::span<const RowId> ids,
            const BatchTarget& target, std::size_t first = 0);

/// The same for `count` live rows of one lane, from `id` on, each looking one step ahead: one
/// contiguous read where rows are whole.
void gather_run(const RowsView& view, const CompactRows* compact, RowId id, std::size_t count,
                const BatchTarget& target, std::size_t first);

/// Asks the memory for the rows that gather_run() is going to read.
void prefetch_run(const RowsView& view, RowId id, std::size_t count);

/// Fills `count` rows of a batch from `first` on with padding: zeros, and -1 for indices.
void pad(const BatchTarget& target, std::size_t first, std::size_t count);

}  // namespace velora
