#include "core/host/compact_rows.h"

#include <cstring>

namespace velora {
namespace {

/// The rows around a lane's next one, as CompactRule::link() asks for them.
class RowsAround {
 public:
  struct New {
    RowId id;
    std::byte* row;
    const RowSource& source;
    std::size_t i;
  };

  RowsAround(const CompactRule& rule, BlockStore& blocks, const RowsView& view,
             const CompactView& compact, const New& added)
      : rule_(rule), blocks_(blocks), view_(view), compact_(compact), added_(added) {}

  Links overwritten() const { return rule_.links(added_.row); }
  Links previous() const { return rule_.links(view_.row(previous_id())); }
  void set_previous(Links links) const {
    rule_.set_links(const_cast<std::byte*>(view_.row(previous_id())), links);
  }
  bool goes_on() const {
    FrameAddress frames[ObservationStorage::kMaxFrameStack];
    compact_.find_state(view_, previous_id(), frames);
    return rule_.goes_on([&](std::uint32_t f) { return frames[f]; }, added_.source, added_.i);
  }
  bool is_state(std::uint32_t block) const {
    return rule_.is_state(blocks_.at(block), added_.source, added_.i);
  }
  std::uint32_t acquire() const { return blocks_.acquire(); }
  void release(std::uint32_t block) const { blocks_.release(block); }

 private:
  RowId previous_id() const { return {added_.id.lane, added_.id.serial - 1}; }

  const CompactRule& rule_;
  BlockStore& blocks_;
  const RowsView& view_;
  const CompactView& compact_;
  const New& added_;
};

}  // namespace

void CompactRows::write(const RowsView& rows, std::uint32_t lane, std::byte* row,
                        const RowSource& source, std::size_t i) {
  const CompactView compact = view();
  const RowsAround::New added = {
      .id = {lane, rows.end(lane)}, .row = row, .source = source, .i = i};
  RowsAround around(rule_, blocks_, rows, compact, added);
  const Links own = rule_.link(rows, lane, around);
  rule_.set_links(row, own);
  std::byte* head = own.head == Links::kNone ? nullptr : blocks_.at(own.head);
  rule_.write(row, head, blocks_.at(own.next), source, i);
}

void CompactRows::restore(const std::byte* blocks, std::size_t count) {
  blocks_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(blocks_.at(blocks_.acquire()), blocks + i * blocks_.block_bytes(),
                blocks_.block_bytes());
  }
}

}  // namespace velora
