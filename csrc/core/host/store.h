#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/host/batch_reader.h"
#include "core/host/check_saved.h"
#include "core/host/compact_rows.h"
#include "core/memory/memory.h"
#include "core/rows/lane_sizes.h"
#include "core/rows/lanes.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"
#include "core/storage.h"

namespace velora {

/// Rows in host memory. Owns one mapping: control block, lane states, rows; and beside it the
/// blocks of compact rows. A lane is a ring with a single writer.
///
/// Huge pages make random reads faster. Many lanes begin on small ones, since each would have a
/// huge page of its own after one row; they go over once the rows that are there fill half of them.
///
/// append() costs O(rows). view() costs O(rows appended since the last one), times O(log lanes)
/// until lanes are full. Not synchronised: callers serialise writers and readers, but view() may
/// run beside other readers once it was called after the last change.
class Store final : public Storage {
 public:
  /// `sampler` chooses the rows of batches; null for Uniform. Throws ValueError for a capacity or
  /// lane count out of range, MemoryError when the rows do not fit into this machine.
  Store(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes, std::uint64_t seed,
        std::shared_ptr<Sampler> sampler = nullptr);

  const RowLayout& layout() const override { return layout_; }
  Lanes& lanes() override { return lanes_; }
  const Lanes& lanes() const { return lanes_; }
  RowsView view() const { return lanes_.view(rows(), layout_, sizes_); }
  RowsView view() override { return std::as_const(*this).view(); }
  std::uint64_t size() override { return view().size(); }
  std::uint64_t fullest() override { return view().fullest(); }
  /// Null where rows are whole.
  const CompactRows* compact() const { return compact_.get(); }
  /// Bytes of the mapping and the blocks.
  std::size_t nbytes() const override;

  void reserve(std::size_t rows, void* /*stream*/ = nullptr) override {
    if (compact_) compact_->reserve(rows);
  }
  void reserve_priorities(std::span<const float> priorities) override {
    reader_.sampler().reserve(view(), priorities);
  }
  void append(const LaneOrder& lanes, const RowSource& source, std::size_t count,
              void* stream = nullptr) override;
  void end_episode(std::uint32_t lane, void* stream = nullptr) override;
  void update_fields(std::span<const RowId> rows, const RowSource& source, std::span<bool> updated,
                     void* stream = nullptr) override;
  void clear(void* stream = nullptr) override;

  void sample(std::uint64_t count, const BatchTarget& target, void* stream = nullptr,
              const PartRunner* runner = nullptr) override;
  void sample_replaced(std::uint64_t count, const BatchTarget& target, void* stream = nullptr,
                       const PartRunner* runner = nullptr) override;
  void gather(const RowNames& names, const BatchTarget& target, void* stream = nullptr,
              const PartRunner* runner = nullptr) override;
  void take(std::uint64_t start, std::uint64_t count, const BatchTarget& target,
            void* stream = nullptr, const PartRunner* runner = nullptr) override;
  std::uint64_t count_sequences(const SequenceSpec& spec, void* stream = nullptr) override;
  void sample_sequences(const SequenceSpec& spec, std::uint64_t count, const SequenceTarget& target,
                        void* stream = nullptr, const PartRunner* runner = nullptr) override;

  void update_priorities(std::span<const RowId> rows, std::span<const float> priorities,
                         std::span<bool> updated, void* stream = nullptr) override;
  std::vector<std::byte> save_sampler(void* stream = nullptr) override;
  void restore_sampler(std::span<const std::byte> saved, void* stream = nullptr) override;

  void settle(void* /*stream*/ = nullptr) override {}
  void set_seed(std::uint64_t seed, void* /*stream*/ = nullptr) override { lanes_.set_seed(seed); }
  void export_rows(std::span<const RowRange> ranges, std::span<std::byte> rows,
                   const BlockMemory& block_memory, void* stream = nullptr) override;
  void import_rows(const SavedRows& saved, void* stream = nullptr) override;

 private:
  /// Rows written together: enough slots on their way from memory, few enough for the first-level
  /// cache.
  static constexpr std::size_t kBlock = 16;

  /// Rows that count already and are to be written.
  struct NewRows {
    std::byte* rows[kBlock];
    std::uint8_t flags[kBlock];
  };

  std::byte* rows() const { return memory_.data() + rows_offset_; }
  std::byte* next_row(std::uint32_t lane) {
    return rows() + lanes_.next_row_index(lane) * layout_.pitch();
  }
  void give_priorities(const LaneOrder& lanes, std::span<const float> priorities);
  void put_on_huge_pages(std::uint64_t rows, std::size_t most);
  void append_whole(const LaneOrder& lanes, const RowSource& source, std::size_t count);
  bool streams(std::size_t count) const;
  void append_streamed(const LaneOrder& lanes, const RowSource& source, std::size_t count);
  void prefetch_rows(const NewRows& block, std::size_t count) const;
  /// Gives source rows [first, first + count) their slots. `lane` is that of the row before them,
  /// and then of the last.
  void begin_rows(const LaneOrder& lanes, const RowSource& source, std::size_t first,
                  std::size_t count, std::uint32_t& lane, NewRows& out);
  void write_rows(const NewRows& block, const RowSource& source, std::size_t first,
                  std::size_t count);
  void append_compact(const LaneOrder& lanes, const RowSource& source, std::size_t count);

  RowLayout layout_;
  std::size_t rows_offset_;
  Memory memory_;
  std::size_t small_pages_;  // where what was left on small pages begins
  Lanes lanes_;
  mutable LaneSizes sizes_;  // as of the last view()
  std::unique_ptr<CompactRows> compact_;
  BatchReader reader_;
};

/// A store on the host with the rows of any storage. Throws MemoryError.
std::unique_ptr<Store> copy_to_host(Storage& storage, void* stream);

}  // namespace velora
