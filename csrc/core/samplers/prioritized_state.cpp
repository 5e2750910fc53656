// Of Prioritized: what it saves, which comes back from anywhere.

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/samplers/prioritized.h"
#include "core/values/errors.h"

namespace velora {
namespace {

/// What save() gives, before the end of each lane and the priorities of its rows, and then those
/// that rows came with which have not been settled.
struct SavedHeader {
  std::uint64_t num_lanes;
  std::uint64_t num_given;
  SumTree::Key largest_ever;
  std::uint32_t reserved;
};
struct SavedPriority {
  std::uint64_t row;
  SumTree::Key key;
  std::uint32_t reserved;
};

}  // namespace

std::uint64_t Prioritized::known_end(const RowsView& view, std::uint32_t lane) const {
  const bool is_known = journal_ == view.journal && cursor_.has_seen_resets_of(*view.journal);
  return is_known ? std::max(seen_[lane].end, view.begin(lane)) : view.begin(lane);
}

std::vector<std::byte> Prioritized::save(const RowsView& view) const {
  std::uint64_t rows = 0;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    rows += known_end(view, lane) - view.begin(lane);
  }
  std::vector<GivenPriority> given = given_;
  std::erase_if(given, [&](const GivenPriority& one) { return !view.alive(one.row); });
  std::vector<std::byte> saved(sizeof(SavedHeader) + view.num_lanes * sizeof(std::uint64_t) +
                               rows * sizeof(float) + given.size() * sizeof(SavedPriority));
  std::byte* next = saved.data();
  const auto add = [&next](const auto& value) {
    std::memcpy(next, &value, sizeof(value));
    next += sizeof(value);
  };
  add(SavedHeader{.num_lanes = view.num_lanes,
                  .num_given = given.size(),
                  .largest_ever = largest_ever_,
                  .reserved = 0});
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    const std::uint64_t end = known_end(view, lane);
    add(end);
    for (std::uint64_t serial = view.begin(lane); serial < end; ++serial) {
      add(SumTree::raw_of(tree_.leaf(position_of({lane, serial})).largest));
    }
  }
  for (const GivenPriority& one : given) {
    add(SavedPriority{.row = one.row.packed(), .key = one.key, .reserved = 0});
  }
  return saved;
}

void Prioritized::restore(const RowsView& view, std::span<const std::byte> saved) {
  const auto require = [](bool holds) {
    if (!holds) throw ValueError("sampler: expected the priorities of these rows, got others");
  };
  std::span<const std::byte> rest = saved;
  const auto read = [&]<typename T>(T& value) {
    require(rest.size() >= sizeof(T));
    std::memcpy(&value, rest.data(), sizeof(T));
    rest = rest.subspan(sizeof(T));
  };
  SavedHeader header = {};
  read(header);
  require(header.num_lanes == view.num_lanes && header.largest_ever >= 0 && header.reserved == 0 &&
          (header.largest_ever == 0 || is_priority(SumTree::raw_of(header.largest_ever))) &&
          header.num_given <= saved.size() / sizeof(SavedPriority));
  std::vector<std::uint64_t> ends(view.num_lanes);
  std::vector<float> priorities;
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    read(ends[lane]);
    require(ends[lane] >= view.begin(lane) && ends[lane] <= view.end(lane));
    for (std::uint64_t serial = view.begin(lane); serial < ends[lane]; ++serial) {
      read(priorities.emplace_back());
      require(is_priority(priorities.back()));
    }
  }
  std::vector<GivenPriority> given;
  for (std::uint64_t i = 0; i < header.num_given; ++i) {
    SavedPriority one = {};
    read(one);
    const RowId row = RowId::unpack(one.row);
    require(one.row <= INT64_MAX && view.alive(row) && row.serial >= ends[row.lane] &&
            one.key > 0 && is_priority(SumTree::raw_of(one.key)) && one.reserved == 0);
    given.push_back({.row = row, .key = one.key});
  }
  require(rest.empty());

  if (memory_.size() == 0) allocate(view);
  forget_all();
  const float* next = priorities.data();
  for (std::uint32_t lane = 0; lane < view.num_lanes; ++lane) {
    see(lane, ends[lane]);
    for (std::uint64_t serial = view.begin(lane); serial < ends[lane]; ++serial) {
      const SumTree::Key key = SumTree::key_of(*next++ + 0.0f);
      tree_.set(position_of({lane, serial}), key, weight_of(key));
    }
    SumTreeUpdate::run(tree_, lane * capacity_, lane * capacity_ + std::min(ends[lane], capacity_));
  }
  largest_ever_ = header.largest_ever;
  given_ = std::move(given);
  journal_ = view.journal;
  cursor_ = {};
  cursor_.read(*view.journal, [](JournalEntry) {});
  looks_at_all_ = true;
}

}  // namespace velora
