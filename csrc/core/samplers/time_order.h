#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/samplers/sampler.h"

namespace velora {

/// The live rows from position `start` on, oldest first: the oldest row of each lane in the order
/// of lanes, then the second of each that has one, and so on. Lanes that are filled evenly are thus
/// read time step by time step.
///
/// O(rows of the batch) where all lanes have as many rows, otherwise O(those + lanes * log rows).
class TimeOrder final : public Sampler {
 public:
  explicit TimeOrder(std::uint64_t start) : start_(start) {}

  void catch_up(const RowsView& view) override { view_ = &view; }
  std::uint64_t size() const override;
  /// Draws nothing.
  void begin(DrawKey key, std::size_t count) override;
  void next(std::span<RowId> out) override;

 private:
  std::uint64_t rows_before(std::uint64_t rank) const;
  std::uint64_t rank_of(std::uint64_t position) const;
  void keep_longer_lanes();

  const RowsView* view_ = nullptr;
  std::uint64_t start_;
  std::uint64_t position_ = 0;        // of the next row, where lanes are even
  std::uint64_t rank_ = 0;            // of the next row in its lane, where they are not,
  std::vector<std::uint32_t> lanes_;  // of all lanes that reach this rank,
  std::size_t next_lane_ = 0;         // in this one of them
};

}  // namespace velora
