#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/host/gather.h"
#include "core/host/store.h"
#include "core/rows/row_source.h"

namespace velora {

/// The live steps of a Store in parts of bounded size, lane by lane and oldest first, as the source
/// of appends to other rows.
///
/// The newest step of a lane is truncated, unless it ended its episode by itself, so that it has no
/// successor where it goes. A part is gathered when it is asked for, into memory of about
/// kPartBytes, or of one step. The Store outlives this and does not change meanwhile.
class StepReader {
 public:
  /// `fields` says for each field of the rows to be written which field of `source` it is.
  StepReader(const Store& source, std::span<const std::size_t> fields);

  /// Successive steps of one lane.
  struct Part {
    std::uint32_t lane;
    bool is_first;  // of its lane
    std::size_t count;
    RowSource source;  // good until the next part
  };

  /// The largest `count` of a part.
  std::size_t most() const { return done_.size(); }
  /// Gathers the next part; returns whether there was one. Allocates nothing.
  bool next(Part& part);

 private:
  static constexpr std::size_t kPartBytes = std::size_t{1} << 20;

  void gather_steps(RowId first, std::size_t count);

  const Store& store_;
  std::vector<std::byte> memory_;
  std::vector<Column> columns_;           // the fields of the source, then its flags
  std::vector<const std::byte*> fields_;  // those of the rows to be written
  std::vector<std::byte> done_;
  std::vector<std::byte> truncated_;
  std::uint32_t lane_ = 0;
  std::uint64_t read_ = 0;  // steps of that lane
};

}  // namespace velora
