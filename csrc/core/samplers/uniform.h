#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/random/candidates.h"
#include "core/random/distinct_draw.h"
#include "core/samplers/distinct_rows.h"
#include "core/samplers/sampler.h"

namespace velora {

/// All live rows, each as likely, without replacement. Keeps nothing from batch to batch: the sizes
/// of lanes, which a view has, are all it needs.
class Uniform final : public Sampler {
 public:
  /// As DistinctRows.
  explicit Uniform(DrawScratch& scratch) : rows_(scratch) {}

  void catch_up(const RowsView& view) override { view_ = &view; }
  std::uint64_t size() const override { return view_->size(); }
  void begin(DrawKey key, std::size_t count) override { rows_.begin(key, size(), count); }
  void next(std::span<RowId> out) override {
    rows_.next(out, [this](std::uint64_t position) { return view_->locate(position); });
  }

 private:
  const RowsView* view_ = nullptr;
  DistinctRows rows_;
};

/// All live rows, each as likely, with replacement: element i of a draw is the first candidate of
/// element i of a Uniform one.
class UniformReplaced final : public Sampler {
 public:
  void catch_up(const RowsView& view) override { view_ = &view; }
  std::uint64_t size() const override { return view_->size(); }
  bool replaces() const override { return true; }
  /// Throws ValueError for more than kMaxDraw, and where there is no row.
  void begin(DrawKey key, std::size_t count) override {
    check_draw(count, size() > 0 ? kMaxDraw : 0);
    key_ = key;
    next_ = 0;
  }
  void next(std::span<RowId> out) override {
    constexpr std::size_t kMost = 64;
    std::uint64_t drawn[kMost];
    while (!out.empty()) {
      const std::size_t count = std::min(kMost, out.size());
      fill_candidates(key_, next_, size(), {drawn, count});
      for (std::size_t i = 0; i < count; ++i) out[i] = view_->locate(drawn[i]);
      next_ += static_cast<std::uint32_t>(count);
      out = out.subspan(count);
    }
  }

 private:
  const RowsView* view_ = nullptr;
  DrawKey key_ = {};
  std::uint32_t next_ = 0;  // element
};

}  // namespace velora
