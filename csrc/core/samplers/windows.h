#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/rows/count_tree.h"
#include "core/rows/rows_view.h"

namespace velora {

/// Which rows are the first of `length` rows that are all there, one after the other in their lane
/// and, unless `crosses`, of one episode. It is told of each row that comes and goes, and then
/// knows how many there are, and which is the n-th, in O(log rows): a bit for each row, and a
/// tree of counts over them. About an eighth of a byte a row.
///
/// Windows are numbered by lane and by the serial of their first row modulo the capacity: by what
/// was pushed alone, not by how it is stored.
///
/// Not synchronised.
class Windows {
 public:
  /// Looks through all rows once. Throws std::bad_alloc.
  Windows(const RowsView& view, std::uint64_t length, bool crosses);
  Windows(Windows&&) = default;
  Windows& operator=(Windows&&) = default;
  Windows(const Windows&) = delete;
  Windows& operator=(const Windows&) = delete;

  std::uint64_t length() const { return length_; }
  bool crosses() const { return crosses_; }
  std::uint64_t size() const { return counts_.total(); }
  /// The window of that number < size().
  RowId locate(const RowsView& view, std::uint64_t number) const;

  /// The newest row of `lane` has just come, in an episode that began with serial `episode`, and
  /// with it the oldest may have gone.
  void update(const RowsView& view, std::uint32_t lane, std::uint64_t episode);
  void clear();

 private:
  static constexpr std::uint64_t kWordBits = 64;
  static constexpr std::uint64_t kGroupWords = 8;  // counted together: one cache line
  static constexpr std::uint64_t kGroupBits = kWordBits * kGroupWords;

  void set(std::uint64_t bit, bool is_window);
  void append(const RowsView& view, RowId newest, std::uint64_t slot, std::uint64_t episode);

  std::uint64_t length_;
  bool crosses_;
  std::vector<std::uint64_t> bits_;
  std::vector<std::uint64_t> count_words_;
  CountTree counts_;
};

}  // namespace velora
