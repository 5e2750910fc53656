#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

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

}  // namespace velora
