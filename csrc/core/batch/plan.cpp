#include "core/batch/plan.h"

#include <string>

#include "core/values/errors.h"

namespace velora {

BatchPlan::BatchPlan(const RowLayout& layout, std::uint32_t n_step, std::optional<double> gamma)
    : layout_(layout), gamma_(gamma) {
  for (const Field& field : layout.fields()) {
    if (field.role == Role::kReward) reward_ = tensors_.size();
    tensors_.push_back({field.dtype, field.shape, field.nbytes});
    row_bytes_ += field.nbytes;
  }
  const TensorSpec& reward = tensors_.at(reward_);
  if (n_step > 1 && (reward.dtype != DType::kFloat32 || reward.row_bytes != sizeof(float))) {
    throw ValueError("reward: expected one float32 to sum up over n_step");
  }
  add_parts(PartOf::kAll);
  if (gamma) add_parts(PartOf::kDiscounted);
}

BatchPlan BatchPlan::with(PartOf kind) const {
  BatchPlan plan = *this;
  plan.add_parts(kind);
  return plan;
}

BatchPlan BatchPlan::of_sequences(const std::vector<std::size_t>& first_fields) const {
  BatchPlan plan = with(PartOf::kSequences);
  for (const std::size_t field : first_fields) {
    if (field >= num_fields()) {
      throw ValueError("first_fields: expected numbers of fields, less than " +
                       std::to_string(num_fields()) + ", got " + std::to_string(field));
    }
    plan.tensors_[field].each_step = false;
  }
  for (std::size_t i = 0; i < plan.parts_.size(); ++i) {
    plan.tensors_[num_fields() + i].each_step = kBatchParts[index_of(plan.parts_[i])].each_step;
  }
  return plan;
}

void BatchPlan::add_parts(PartOf kind) {
  for (std::size_t p = 0; p < kNumBatchParts; ++p) {
    if (kBatchParts[p].of != kind) continue;
    const auto part = static_cast<BatchPart>(p);
    const DType dtype = dtype_of(part);
    std::vector<std::int64_t> shape;
    if (is_float(part)) shape.push_back(1);
    tensors_.push_back({dtype, std::move(shape), size_of(dtype)});
    parts_.push_back(part);
    row_bytes_ += size_of(dtype);
  }
}

void BatchPlan::set_parts(BatchMemory memory, bool each_step, BatchTarget& target) const {
  for (std::size_t i = num_fields(); i < tensors_.size(); ++i) {
    if (tensors_[i].each_step == each_step) target.set(parts_[i - num_fields()], memory[i]);
  }
}

void BatchPlan::add_columns(BatchMemory memory, bool each_step, bool sums_rewards,
                            std::vector<Column>& columns) const {
  columns.clear();
  for (std::size_t f = 0; f < num_fields(); ++f) {
    const Field& field = layout_.fields()[f];
    if (tensors_[f].each_step != each_step) continue;
    if (field.role == Role::kReward && sums_rewards) continue;  // a sum, not a copy
    columns.push_back(column_of(field, layout_, memory[f]));
  }
}

BatchTarget BatchPlan::target(BatchMemory memory, std::uint32_t n_step,
                              std::vector<Column>& columns) const {
  add_columns(memory, true, n_step > 1, columns);
  BatchTarget target = {};
  target.columns = columns.data();
  target.num_columns = static_cast<std::uint32_t>(columns.size());
  target.n_step = n_step;
  if (n_step > 1) {
    target.reward_offset = layout_.fields()[reward_].offset;
    target.rewards = reinterpret_cast<float*>(memory[reward_]);
  }
  if (gamma_) target.gamma = *gamma_;
  set_parts(memory, true, target);
  return target;
}

BatchTarget BatchPlan::firsts_target(BatchMemory memory, std::vector<Column>& columns) const {
  add_columns(memory, false, false, columns);
  BatchTarget target = {};
  target.columns = columns.data();
  target.num_columns = static_cast<std::uint32_t>(columns.size());
  set_parts(memory, false, target);
  return target;
}

std::size_t row_bytes(const BatchTarget& target) {
  std::size_t bytes = target.rewards != nullptr ? sizeof(float) : 0;
  for (std::uint32_t c = 0; c < target.num_columns; ++c) bytes += target.columns[c].nbytes;
  for (std::size_t p = 0; p < kNumBatchParts; ++p) {
    if (target.parts[p] != nullptr) bytes += size_of(dtype_of(static_cast<BatchPart>(p)));
  }
  return bytes;
}

}  // namespace velora
