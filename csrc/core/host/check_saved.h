#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/rows/compact_rule.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/saved_rows.h"

namespace velora {

/// Throws ValueError unless `lanes` can hold these rows: their number and bytes, what their flags
/// say of episodes, and their links, which `compact` knows where rows are compact. Returns the
/// number of blocks. Costs O(rows).
std::size_t check_saved(const SavedRows& saved, const Lanes& lanes, const RowLayout& layout,
                        const CompactRule* compact);

/// Makes each flag of a row's or block's bool fields 0 or 1: bytes may say True in other ways.
class BoolFields {
 public:
  explicit BoolFields(const RowLayout& layout);

  void clean_row(std::byte* row) const { clean(row, in_rows_); }
  void clean_block(std::byte* block) const { clean(block, in_blocks_); }

 private:
  struct Run {
    std::size_t offset;
    std::size_t nbytes;
  };

  static void clean(std::byte* bytes, const std::vector<Run>& runs);

  std::vector<Run> in_rows_;
  std::vector<Run> in_blocks_;
};

}  // namespace velora
