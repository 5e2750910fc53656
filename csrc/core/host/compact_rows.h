#pragma once

#include <cstddef>
#include <cstdint>

#include "core/memory/block_store.h"
#include "core/rows/compact_rule.h"
#include "core/rows/compact_view.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/rows/rows_view.h"

namespace velora {

/// The observations of compact rows in host memory, each stored once (see CompactRule). Not
/// synchronised.
class CompactRows {
 public:
  /// The slots are those of all lanes together.
  CompactRows(const RowLayout& layout, std::uint64_t num_slots)
      : rule_(layout, num_slots), blocks_(layout.block_bytes()) {}

  const CompactRule& rule() const { return rule_; }
  const BlockStore& blocks() const { return blocks_; }
  /// Good until blocks are reserved.
  CompactView view() const {
    return {.links_offset = rule_.links_offset(),
            .block_bytes = rule_.block_bytes(),
            .chunks = blocks_.chunks(),
            .chunk_log2 = blocks_.chunk_log2(),
            .frame_stack = rule_.frame_stack()};
  }

  /// Makes sure that that many rows can be written. Throws MemoryError, and then nothing has
  /// changed.
  void reserve(std::size_t rows) { blocks_.reserve(rule_.most_added(rows, blocks_.num_used())); }
  /// Writes the observations of source row `i` to `row`, the lane's next, which is not committed
  /// yet. Precondition: reserve() was told of it.
  void write(const RowsView& rows, std::uint32_t lane, std::byte* row, const RowSource& source,
             std::size_t i);
  void clear() { blocks_.clear(); }

  /// Makes sure that there can be that many blocks in all. Throws MemoryError, and then nothing has
  /// changed.
  void reserve_blocks(std::uint64_t count) {
    if (count > blocks_.num_used()) blocks_.reserve(count - blocks_.num_used());
  }
  /// Takes `count` blocks back that were numbered so. Precondition: reserve_blocks() was told of
  /// them, and there are no others.
  void restore(const std::byte* blocks, std::size_t count);

 private:
  CompactRule rule_;
  BlockStore blocks_;
};

}  // namespace velora
