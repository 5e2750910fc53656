#include "core/samplers/prioritized.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

#include "core/random/distinct_draw.h"
#include "core/samplers/uniform.h"
#include "core/values/errors.h"
#include "core/values/power.h"

namespace velora {
namespace {

constexpr std::size_t kMostKept = std::size_t{1} << 16;  // elements of a draw

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

void check_range(const char* name, double value, double most) {
  if (value >= 0 && value <= most) return;
  throw ValueError(std::string(name) + ": expected a number from 0 to " + number_text(most) +
                   ", got " + number_text(value));
}

/// A number in [0, 1) of 53 random bits.
double fraction(std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

}  // namespace

void Prioritized::check_priorities(std::span<const float> priorities) {
  for (const float priority : priorities) {
    if (is_priority(priority)) continue;
    throw ValueError("priorities: expected finite numbers of at least 0, got " +
                     number_text(priority));
  }
}

void PrioritizedOptions::check() const {
  check_range("alpha", alpha, kMaxAlpha);
  check_range("beta", beta, kMaxBeta);
  check_range("eps", eps, kMaxEps);
}

Prioritized::Prioritized(const PrioritizedOptions& options)
    : options_(options), tree_alpha_(options.alpha) {
  options_.check();
}

void Prioritized::set_alpha(double alpha) {
  check_range("alpha", alpha, PrioritizedOptions::kMaxAlpha);
  options_.alpha = alpha;
}

void Prioritized::set_beta(double beta) {
  check_range("beta", beta, PrioritizedOptions::kMaxBeta);
  options_.beta = beta;
}

void Prioritized::allocate(const RowsView& view) {
  capacity_ = view.lane_capacity;
  const std::uint64_t positions = view.num_lanes * capacity_;
  seen_.assign(view.num_lanes, {});
  memory_ = Memory::anonymous(SumTree::nbytes(positions), "priorities");
  tree_ = SumTree::in(memory_.data(), positions);
}

void Prioritized::forget_all() {
  for (std::uint32_t lane = 0; lane < seen_.size(); ++lane) {
    const std::uint64_t first = lane * capacity_;
    const std::uint64_t used = std::min(seen_[lane].end, capacity_);
    std::fill_n(tree_.levels[0] + first, used, SumTree::Node{});
    SumTreeUpdate::run(tree_, first, first + used);
    seen_[lane] = {};
  }
}

void Prioritized::catch_up(const RowsView& view) {
  view_ = &view;
  if (memory_.size() == 0) allocate(view);
  if (view.journal != journal_) {  // of other rows
    journal_ = view.journal;
    cursor_ = {};
  }
  if (options_.alpha != tree_alpha_) reweigh();
  new_rows_.clear();
  cursor_.each_lane(
      *view.journal, view.num_lanes, [&] { forget_all(); },
      [&](std::uint32_t lane) { collect(view, lane); });
  if (std::exchange(looks_at_all_, false)) {
    for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) collect(view, lane);
  }
  if (!new_rows_.empty()) settle();
}

/// Notes the new rows of a lane.
void Prioritized::collect(const RowsView& view, std::uint32_t lane) {
  const std::uint64_t end = view.end(lane);
  const std::uint64_t first = std::max(seen_[lane].end, view.begin(lane));
  if (first < end) new_rows_.push_back({.lane = lane, .first = first, .end = end});
  see(lane, end);
}

void Prioritized::see(std::uint32_t lane, std::uint64_t end) {
  Seen& seen = seen_[lane];
  if (end > seen.lap + capacity_) seen.lap = (end - 1) / capacity_ * capacity_;
  seen.end = end;
}

/// Gives new rows the priorities that they came with, or the largest of those and of the rows that
/// are left.
void Prioritized::settle() {
  drop_dead_priorities(*view_);
  SumTree::Key largest = largest_ever_;
  if (options_.maximum == MaximumOf::kBuffer) {
    if (drops_largest()) {
      for (const RowRange& rows : new_rows_) fill(rows, 0, 0.0);
    }
    largest = tree_.largest();
  }
  for (const GivenPriority& given : given_) largest = std::max(largest, given.key);
  if (largest == 0) largest = SumTree::key_of(1.0f);
  largest_ever_ = std::max(largest_ever_, largest);
  const double weight = weight_of(largest);
  for (const RowRange& rows : new_rows_) fill(rows, largest, weight);
  if (given_.empty()) return;
  positions_.clear();
  positions_.reserve(given_.size());
  for (const GivenPriority& given : given_) change(given.row, given.key);
  tree_update_.some(tree_, positions_);
  given_.clear();
}

/// Changes the leaf of a row alone, and notes its position.
void Prioritized::change(RowId row, SumTree::Key key) {
  positions_.push_back(position_of(row));
  tree_.set(positions_.back(), key, weight_of(key));
}

void Prioritized::drop_dead_priorities(const RowsView& view) {
  std::erase_if(given_, [&](const GivenPriority& given) { return !view.alive(given.row); });
}

void Prioritized::reserve(const RowsView& view, std::span<const float> priorities) {
  check_priorities(priorities);
  const std::size_t count = given_.size() + priorities.size();
  if (count <= given_.capacity()) return;
  drop_dead_priorities(view);
  given_.reserve(std::max(given_.size() + priorities.size(), 2 * given_.size()));
}

void Prioritized::give(RowId row, float priority) {
  given_.push_back({.row = row, .key = SumTree::key_of(priority + 0.0f)});
}

/// Whether one of the rows that new ones replace has the largest priority.
bool Prioritized::drops_largest() const {
  const SumTree::Key largest = tree_.largest();
  return largest != 0 && std::ranges::any_of(new_rows_, [&](const RowRange& rows) {
           bool drops = false;
           each_piece(rows, [&](std::uint64_t first, std::uint64_t end) {
             for (; first < end; ++first) drops |= tree_.leaf(first).largest == largest;
           });
           return drops;
         });
}

void Prioritized::fill(const RowRange& rows, SumTree::Key key, double weight) {
  each_piece(rows, [&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t position = first; position < end; ++position) {
      tree_.set(position, key, weight);
    }
    SumTreeUpdate::run(tree_, first, end);
  });
}

double Prioritized::weight_of(SumTree::Key key) const {
  if (key == 0) return 0.0;
  return power(static_cast<double>(SumTree::raw_of(key)) + options_.eps, tree_alpha_);
}

/// Makes all weights again with another alpha.
void Prioritized::reweigh() {
  tree_alpha_ = options_.alpha;
  for (std::uint32_t lane = 0; lane < seen_.size(); ++lane) {
    const std::uint64_t first = lane * capacity_;
    const std::uint64_t end = first + std::min(seen_[lane].end, capacity_);
    for (std::uint64_t position = first; position < end; ++position) {
      const SumTree::Key key = tree_.leaf(position).largest;
      tree_.set(position, key, weight_of(key));
    }
    SumTreeUpdate::run(tree_, first, end);
  }
}

RowId Prioritized::row_at(std::uint64_t position) const {
  const std::uint64_t lane = seen_.size() == 1 ? 0 : position / capacity_;
  const Seen& seen = seen_[lane];
  const std::uint64_t serial = position - lane * capacity_ + seen.lap;
  return {static_cast<std::uint32_t>(lane), serial < seen.end ? serial : serial - capacity_};
}

void Prioritized::begin(DrawKey key, std::size_t count) {
  check_draw(count, size() > 0 ? kMaxDraw : 0);
  if (rows_.size() > kMostKept && count <= kMostKept) {
    std::vector<RowId>().swap(rows_);
    std::vector<double>().swap(weights_);
    std::vector<std::uint64_t>().swap(positions_);
  }
  rows_.resize(count);
  weights_.resize(count);
  positions_.resize(count);
  next_ = 0;
  total_ = tree_.total();
  beta_ = options_.beta;
  if (total_ > 0) {
    draw_by_weight(key);
  } else {
    draw_uniformly(key);
  }
}

void Prioritized::draw_by_weight(DrawKey key) {
  const std::size_t count = rows_.size();
  const double part = total_ / static_cast<double>(count);
  for (std::size_t i = 0; i < count; i += 2) {
    const RandomPair pair = random_pair(key, static_cast<std::uint32_t>(i / 2), 0);
    for (std::size_t j = i; j < std::min(i + 2, count); ++j) {
      const double x = fraction(pair.bits[j - i]);
      weights_[j] = options_.stratified ? (static_cast<double>(j) + x) * part : x * total_;
    }
  }
  find_all(tree_, weights_, positions_);
  for (std::size_t i = 0; i < count; ++i) {
    weights_[i] = tree_.leaf(positions_[i]).sum;
    rows_[i] = row_at(positions_[i]);
  }
  unit_ = total_ / static_cast<double>(size());
  if (options_.scale == WeightScale::kBuffer) unit_ = weight_of(tree_.least());
  if (options_.scale == WeightScale::kBatch) {
    unit_ = *std::min_element(weights_.begin(), weights_.end());
  }
}

void Prioritized::draw_uniformly(DrawKey key) {
  if (uniform_ == Warning::kNone) uniform_ = Warning::kPending;
  UniformReplaced rows;
  rows.catch_up(*view_);
  rows.begin(key, rows_.size());
  rows.next(rows_);
}

void Prioritized::next(std::span<RowId> out) {
  std::copy_n(rows_.begin() + static_cast<std::ptrdiff_t>(next_), out.size(), out.begin());
  next_ += out.size();
}

void Prioritized::write_weights(std::span<float> out) {
  if (total_ == 0) return std::fill(out.begin(), out.end(), 1.0f);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(power(weights_[i] / unit_, -beta_));
  }
}

const char* Prioritized::warning() {
  if (uniform_ != Warning::kPending) return nullptr;
  uniform_ = Warning::kGiven;
  return "all priorities are 0 and so is eps: batches are drawn uniformly until one is larger";
}

void Prioritized::update(const RowsView& view, std::span<const RowId> rows,
                         std::span<const float> priorities, std::span<bool> updated) {
  check_priorities(priorities);
  catch_up(view);
  positions_.clear();
  positions_.reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    updated[i] = view.alive(rows[i]);
    if (updated[i]) change(rows[i], SumTree::key_of(priorities[i] + 0.0f));  // -0 becomes 0
  }
  for (const std::uint64_t position : positions_) {
    largest_ever_ = std::max(largest_ever_, tree_.leaf(position).largest);
  }
  tree_update_.some(tree_, positions_);
  if (positions_.size() > kMostKept) std::vector<std::uint64_t>().swap(positions_);
}

}  // namespace velora
