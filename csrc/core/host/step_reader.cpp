#include "core/host/step_reader.h"

#include <algorithm>

#include "core/values/round_up.h"

namespace velora {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

StepReader::StepReader(const Store& source, std::span<const std::size_t> fields) : store_(source) {
  const RowLayout& layout = store_.layout();
  for (const Field& field : layout.fields()) {
    columns_.push_back(column_of(field, layout, nullptr));
  }
  columns_.push_back({.row_offset = layout.flags_offset(), .nbytes = 1, .out = nullptr});
  std::size_t step_bytes = 0;
  for (const Column& column : columns_) step_bytes += column.nbytes;
  const std::uint64_t most = std::max<std::size_t>(1, kPartBytes / step_bytes);
  const std::size_t steps = std::min(most, store_.view().fullest());
  std::size_t offset = 0;
  std::vector<std::size_t> offsets;
  for (const Column& column : columns_) {
    offsets.push_back(offset);
    offset += round_up(column.nbytes * steps, kAlignment);
  }
  memory_.resize(offset);
  for (std::size_t i = 0; i < columns_.size(); ++i) columns_[i].out = memory_.data() + offsets[i];
  for (const std::size_t field : fields) fields_.push_back(columns_[field].out);
  done_.resize(steps);
  truncated_.resize(steps);
}

bool StepReader::next(Part& part) {
  const RowsView view = store_.view();
  while (lane_ < view.num_lanes && read_ == view.size(lane_)) {
    ++lane_;
    read_ = 0;
  }
  if (lane_ == view.num_lanes) return false;
  const std::size_t count = std::min<std::uint64_t>(most(), view.size(lane_) - read_);
  part = {
      .lane = lane_,
      .is_first = read_ == 0,
      .count = count,
      .source = {.fields = fields_.data(), .done = done_.data(), .truncated = truncated_.data()}};
  gather_steps({lane_, view.begin(lane_) + read_}, count);
  read_ += count;
  return true;
}

void StepReader::gather_steps(RowId first, std::size_t count) {
  const RowsView view = store_.view();
  BatchTarget target = {};
  target.columns = columns_.data();
  target.num_columns = static_cast<std::uint32_t>(columns_.size());
  gather_run(view, store_.compact(), first, count, target, 0);
  const std::byte* flags = columns_.back().out;
  for (std::size_t i = 0; i < count; ++i) {
    done_[i] = flags[i] & std::byte{kDone};
    truncated_[i] = flags[i] & std::byte{kTruncated};
  }
  const std::size_t last = count - 1;
  const bool is_newest = first.serial + count == view.end(first.lane);
  if (is_newest && (flags[last] & std::byte{kEnds}) == std::byte{0}) {
    truncated_[last] = std::byte{kTruncated};
  }
}

}  // namespace velora
