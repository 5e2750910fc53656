#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/random/distinct_draw.h"
#include "core/rows/count_tree.h"
#include "core/rows/journal.h"
#include "core/rows/rows_view.h"
#include "core/samplers/distinct_rows.h"
#include "core/samplers/sampler.h"

namespace velora {

/// Which rows are the first of `length` rows that are all there, one after the other in their lane
/// and, unless `crosses`, of one episode: each as likely, without replacement. How many there are,
/// and which is the n-th, is known in O(log rows): a bit for each row, and a tree of counts over
/// them. About an eighth of a byte a row, and two words a lane.
///
/// Windows are numbered by lane and by the serial of their first row modulo the capacity: by what
/// was pushed alone, not by how it is stored.
///
/// A reader of the lanes' journal. Of each lane that an entry names it looks through the rows from
/// the first that it has not seen, and of those that are gone already through none. It skips
/// patches: an end that was marked later parts the newest row from rows which have not come, and
/// is found by the flags of the row before them.
class Windows final : public Sampler {
 public:
  /// Of rows like those of `view`. `scratch` as in DistinctRows. Throws std::bad_alloc.
  Windows(const RowsView& view, std::uint64_t length, bool crosses, DrawScratch& scratch);

  std::uint64_t length() const { return length_; }
  bool crosses() const { return crosses_; }

  /// O(rows pushed * log rows); the first time and after a reset it looks through all rows.
  void catch_up(const RowsView& view) override;
  std::uint64_t size() const override { return counts_.total(); }
  void begin(DrawKey key, std::size_t count) override { rows_.begin(key, size(), count); }
  void next(std::span<RowId> out) override {
    rows_.next(out, [this](std::uint64_t number) { return locate(number); });
  }
  /// The window of that number < size().
  RowId locate(std::uint64_t number) const;

 private:
  static constexpr std::uint64_t kWordBits = 64;
  static constexpr std::uint64_t kGroupWords = 8;  // counted together: one cache line
  static constexpr std::uint64_t kGroupBits = kWordBits * kGroupWords;

  /// Known state of a lane.
  struct Seen {
    std::uint64_t serial;   // of the first row that was not looked at
    std::uint64_t episode;  // that it belongs to, if the row before did not end one
  };

  void forget_all();
  void forget(const RowsView& view, std::uint32_t lane);
  void look_on(const RowsView& view, std::uint32_t lane);
  void set(std::uint64_t bit, bool is_window);
  void append(const RowsView& view, RowId newest, std::uint64_t slot, std::uint64_t episode);

  std::uint64_t length_;
  bool crosses_;
  std::vector<std::uint64_t> bits_;
  std::vector<std::uint64_t> count_words_;
  CountTree counts_;
  std::vector<Seen> seen_;
  JournalCursor cursor_;
  const RowsView* view_ = nullptr;
  DistinctRows rows_;
};

}  // namespace velora
