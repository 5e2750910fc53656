#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "batches.h"
#include "core/host/batch_reader.h"
#include "core/host/gather.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/rows/rows_view.h"

namespace velora::testing {

/// Everything that was ever pushed, and what a buffer of it has to give, found the slow way.
class History {
 public:
  History(std::uint64_t lane_capacity, std::uint32_t num_lanes)
      : capacity_(lane_capacity), lanes_(num_lanes), cleared_(num_lanes) {}

  void append(const LaneOrder& order, RowSet rows) {
    sets_.push_back(std::move(rows));
    std::uint32_t lane = order.before_first();
    for (std::size_t i = 0; i < sets_.back().size(); ++i) {
      lane = order.next(i, lane);
      lanes_[lane].push_back({&sets_.back(), i});
    }
  }
  void clear() {
    for (std::size_t lane = 0; lane < lanes_.size(); ++lane) cleared_[lane] = lanes_[lane].size();
  }

  std::uint32_t num_lanes() const { return static_cast<std::uint32_t>(lanes_.size()); }
  std::uint64_t begin(std::uint32_t lane, std::uint64_t spare_slots = 0) const {
    const std::uint64_t slots = capacity_ + spare_slots;
    const std::uint64_t oldest = end(lane) > slots ? end(lane) - slots : 0;
    return std::max(oldest, cleared_[lane]);
  }
  std::uint64_t end(std::uint32_t lane) const { return lanes_[lane].size(); }
  /// Of a row that is no longer alive, too.
  const std::byte* at(RowId id, std::size_t field) const {
    const Row& row = lanes_[id.lane][id.serial];
    return std::as_const(*row.set).at(row.i, field);
  }
  std::uint8_t flags(RowId id) const {
    const bool first = id.serial == 0 || ends({id.lane, id.serial - 1});
    return own_flags(id) | (first ? kFirst : std::uint8_t{0});
  }

  /// All live rows, lane by lane.
  std::vector<RowId> live() const {
    std::vector<RowId> ids;
    for (std::uint32_t lane = 0; lane < num_lanes(); ++lane) {
      for (std::uint64_t serial = begin(lane); serial < end(lane); ++serial) {
        ids.push_back({lane, serial});
      }
    }
    return ids;
  }

  /// All starts of sequences, in the order of their numbers.
  std::vector<RowId> starts(const SequenceSpec& spec) const {
    std::vector<RowId> ids = live();
    if (spec.boundary == SequenceBoundary::kPad) return ids;
    std::erase_if(ids, [&](RowId start) { return trained_steps(spec, start) < spec.length; });
    std::stable_sort(ids.begin(), ids.end(), [&](RowId a, RowId b) {
      return std::pair(a.lane, a.serial % capacity_) < std::pair(b.lane, b.serial % capacity_);
    });
    return ids;
  }
  /// The rows of a sequence, padded, and its mask.
  void add_sequence(const SequenceSpec& spec, RowId start, std::vector<RowId>& ids,
                    std::vector<float>& mask) const {
    const bool crosses = spec.boundary == SequenceBoundary::kCross;
    std::uint64_t burn_in = 0;
    while (burn_in < spec.burn_in && start.serial - burn_in > begin(start.lane) &&
           (crosses || !ends({start.lane, start.serial - burn_in - 1}))) {
      ++burn_in;
    }
    const std::uint64_t trained = trained_steps(spec, start);
    for (std::uint64_t step = 0; step < spec.burn_in + spec.length; ++step) {
      const bool there = step < burn_in + trained;
      ids.push_back(there ? RowId{start.lane, start.serial - burn_in + step}
                          : RowId{RowId::kNoLane, 0});
      mask.push_back(there && step >= burn_in ? 1.0f : 0.0f);
    }
  }

  /// Writes the rows to a batch in zeroed memory.
  void write(const RowLayout& layout, std::span<const RowId> ids, const Batch& batch) const {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i].lane == RowId::kNoLane) {
        batch.target().indices()[i] = -1;
      } else {
        write_row(layout, ids[i], i, batch);
      }
    }
  }

 private:
  struct Row {
    const RowSet* set;
    std::size_t i;
  };

  std::uint8_t own_flags(RowId id) const {
    const Row& row = lanes_[id.lane][id.serial];
    return row.set->flags(row.i);
  }
  bool ends(RowId id) const { return own_flags(id) != 0; }
  bool has_next(RowId id) const { return id.serial + 1 < end(id.lane); }

  std::uint64_t trained_steps(const SequenceSpec& spec, RowId start) const {
    const bool crosses = spec.boundary == SequenceBoundary::kCross;
    std::uint64_t steps = 1;
    for (RowId row = start; steps < spec.length && has_next(row) && (crosses || !ends(row));
         ++steps) {
      ++row.serial;
    }
    return steps;
  }

  void write_row(const RowLayout& layout, RowId id, std::size_t i, const Batch& batch) const {
    const BatchTarget& target = batch.target();
    RowId last = id;
    double sum = 0.0;
    double power = 1.0;
    for (std::uint32_t step = 1;; ++step) {
      if (target.n_step > 1) {
        float reward;
        std::memcpy(&reward, at(last, kReward), sizeof(reward));
        sum += power * static_cast<double>(reward);
      }
      power *= target.gamma;
      if (step == target.n_step || ends(last) || !has_next(last)) break;
      ++last.serial;
    }
    const bool done = (own_flags(last) & kDone) != 0;
    target.floats(BatchPart::kDones)[i] = done ? 1.0f : 0.0f;
    target.floats(BatchPart::kTruncations)[i] = (own_flags(last) & kTruncated) != 0 ? 1.0f : 0.0f;
    target.floats(BatchPart::kDiscounts)[i] = done ? 0.0f : static_cast<float>(power);
    target.floats(BatchPart::kIsFirst)[i] = (flags(id) & kFirst) != 0 ? 1.0f : 0.0f;
    if (float* steps = target.floats(BatchPart::kSteps)) {
      steps[i] = static_cast<float>(last.serial - id.serial + 1);
    }
    target.indices()[i] = static_cast<std::int64_t>(id.packed());
    for (const Batch::Part& part : batch.parts()) {
      const Field& field = layout.fields()[part.field];
      if (field.role == Role::kReward && target.n_step > 1) {
        target.rewards[i] = static_cast<float>(sum);
        continue;
      }
      const RowId from = field.role == Role::kNextState ? last : id;
      std::memcpy(part.out + i * field.nbytes, at(from, part.field), field.nbytes);
    }
  }

  std::uint64_t capacity_;
  std::deque<RowSet> sets_;  // a RowSet does not move
  std::vector<std::vector<Row>> lanes_;
  std::vector<std::uint64_t> cleared_;
};

}  // namespace velora::testing
