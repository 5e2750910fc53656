#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "core/memory/memory.h"
#include "core/random/philox.h"
#include "core/rows/journal.h"
#include "core/rows/rows_view.h"
#include "core/rows/saved_rows.h"
#include "core/samplers/sampler.h"
#include "core/samplers/sum_tree.h"

namespace velora {

/// By what importance weights are divided: the largest that a row of the buffer could have, the
/// largest of the batch, or nothing.
enum class WeightScale : std::uint8_t { kBuffer, kBatch, kNone };
/// Which priority is the largest, for new rows: of those that are alive, or of all that ever were.
enum class MaximumOf : std::uint8_t { kBuffer, kAllTime };

struct PrioritizedOptions {
  double alpha;  // 0 to kMaxAlpha
  double beta;   // 0 to kMaxBeta
  double eps;    // 0 to kMaxEps
  WeightScale scale;
  bool stratified;  // the i-th of B rows is of the i-th of B equal parts of the total
  MaximumOf maximum;

  /// Weights of any finite float and the sums of 2**40 of them stay far from the bounds of a
  /// double.
  static constexpr double kMaxAlpha = 4.0;
  static constexpr double kMaxBeta = 4.0;
  static constexpr double kMaxEps = 1e9;
  /// Throws ValueError for one that is out of range.
  void check() const;
};

/// Proportional prioritization (Schaul et al. 2016, "Prioritized Experience Replay"), with
/// replacement. A row has a raw priority p >= 0; its weight in the tree is (p + eps)**alpha, its
/// probability P the share of the total, and its importance weight (N * P)**-beta for N live rows,
/// divided as `scale` says. A row without weight is never drawn; where no row has any, all are as
/// likely.
///
/// A new row gets the largest raw priority of all that are alive, or of all time, once; 1 in an
/// empty buffer; or the priority that it came with. That is settled at catch_up(): rows that have
/// gone are dropped, and then the largest of those that are left and of those that came with rows
/// is given to all other new ones.
///
/// A reader of the lanes' journal that skips patches. 21 bytes a row of the capacity, which become
/// resident as rows come. A draw costs O(log capacity) for each row, an update the same, and
/// another alpha O(capacity) at the next catch_up().
class Prioritized final : public Sampler {
 public:
  /// Throws as check() does.
  explicit Prioritized(const PrioritizedOptions& options);

  const PrioritizedOptions& options() const { return options_; }
  /// Both take effect at the next draw. Throw as check() does, and then nothing has changed.
  void set_alpha(double alpha);
  void set_beta(double beta);

  /// The first time it takes the memory. Throws MemoryError.
  void catch_up(const RowsView& view) override;
  std::uint64_t size() const override { return view_->size(); }
  bool replaces() const override { return true; }
  void begin(DrawKey key, std::size_t count) override;
  void next(std::span<RowId> out) override;
  bool has_weights() const override { return true; }
  void write_weights(std::span<float> out) override;
  void update(const RowsView& view, std::span<const RowId> rows, std::span<const float> priorities,
              std::span<bool> updated) override;
  void reserve(const RowsView& view, std::span<const float> priorities) override;
  void give(RowId row, float priority) override;
  const char* warning() override;
  std::size_t nbytes() const override { return memory_.size(); }
  std::vector<std::byte> save(const RowsView& view) const override;
  void restore(const RowsView& view, std::span<const std::byte> saved) override;

 private:
  /// Known state of a lane, whose row `serial` has position serial % capacity among the lane's.
  struct Seen {
    std::uint64_t end;  // serial of the first row that has no priority yet
    std::uint64_t lap;  // serial of the newest row in the lane's first position
  };

  /// That a new row came with.
  struct GivenPriority {
    RowId row;
    SumTree::Key key;
  };

  static bool is_priority(float value) {
    return value >= 0 && value <= std::numeric_limits<float>::max();
  }
  static void check_priorities(std::span<const float> priorities);
  void allocate(const RowsView& view);
  void forget_all();
  void collect(const RowsView& view, std::uint32_t lane);
  void see(std::uint32_t lane, std::uint64_t end);
  void settle();
  void change(RowId row, SumTree::Key key);
  void drop_dead_priorities(const RowsView& view);
  bool drops_largest() const;
  void fill(const RowRange& rows, SumTree::Key key, double weight);
  void reweigh();
  double weight_of(SumTree::Key key) const;
  std::uint64_t position_of(RowId row) const {
    const std::uint64_t lap = seen_[row.lane].lap;
    return row.lane * capacity_ +
           (row.serial >= lap ? row.serial - lap : row.serial + capacity_ - lap);
  }
  /// Calls f(first, end) with the positions of rows: two runs of them where they wrap.
  template <typename F>
  void each_piece(const RowRange& rows, const F& f) const {
    const std::uint64_t begin = rows.lane * capacity_;
    const std::uint64_t first = position_of({rows.lane, rows.first});
    const std::uint64_t before_wrap = std::min(rows.size(), begin + capacity_ - first);
    f(first, first + before_wrap);
    if (rows.size() > before_wrap) f(begin, begin + rows.size() - before_wrap);
  }
  RowId row_at(std::uint64_t position) const;
  void draw_by_weight(DrawKey key);
  void draw_uniformly(DrawKey key);
  /// The first row of a lane that has no priority.
  std::uint64_t known_end(const RowsView& view, std::uint32_t lane) const;

  PrioritizedOptions options_;
  double tree_alpha_;  // of the weights in the tree
  SumTree::Key largest_ever_ = 0;
  std::uint64_t capacity_ = 0;  // of a lane
  Memory memory_;
  SumTree tree_ = {};
  SumTreeUpdate tree_update_;
  std::vector<Seen> seen_;
  std::vector<RowRange> new_rows_;
  std::vector<GivenPriority> given_;
  JournalCursor cursor_;
  const Journal* journal_ = nullptr;
  const RowsView* view_ = nullptr;
  bool looks_at_all_ = false;  // lanes, at the next catch_up()
  enum class Warning : std::uint8_t { kNone, kPending, kGiven } uniform_ = Warning::kNone;

  // Of the last batch.
  std::vector<RowId> rows_;
  std::vector<double> weights_;  // in the tree; masses before that
  std::vector<std::uint64_t> positions_;
  std::size_t next_ = 0;
  double total_ = 0.0;
  double unit_ = 0.0;  // the weight in the tree of importance weight 1
  double beta_ = 0.0;
};

}  // namespace velora
