#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace velora {

/// Consecutive rows of one lane, by their serials.
struct RowRange {
  std::uint32_t lane;
  std::uint64_t first;
  std::uint64_t end;

  std::uint64_t size() const { return end - first; }
};

/// Which rows of a lane are present, and the episode that the next one belongs to.
struct SavedLane {
  std::uint64_t first;
  std::uint64_t pushed;
  std::uint64_t episode;
};

/// The present rows of lanes, one range for each.
inline std::vector<RowRange> ranges_of(std::span<const SavedLane> lanes) {
  std::vector<RowRange> ranges;
  for (const SavedLane& lane : lanes) {
    ranges.push_back({static_cast<std::uint32_t>(ranges.size()), lane.first, lane.pushed});
  }
  return ranges;
}

inline std::uint64_t count_rows(std::span<const RowRange> ranges) {
  std::uint64_t rows = 0;
  for (const RowRange& range : ranges) rows += range.size();
  return rows;
}

/// All rows of a storage as bytes, which may come back from anywhere: the present rows of each
/// lane, the blocks that compact ones lead to, and the number of draws made.
struct SavedRows {
  std::span<const SavedLane> lanes;
  std::span<const std::byte> rows;
  std::span<const std::byte> blocks;
  std::uint64_t draws = 0;
};

/// Gives memory for that many bytes of blocks.
using BlockMemory = std::function<std::byte*(std::size_t)>;

}  // namespace velora
