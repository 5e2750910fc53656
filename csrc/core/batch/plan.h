#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/batch/parts.h"
#include "core/batch/target.h"
#include "core/rows/row_layout.h"
#include "core/values/dtype.h"

namespace velora {

/// One tensor of a batch: an element type and the shape of one row.
struct TensorSpec {
  DType dtype;
  std::vector<std::int64_t> row_shape;
  std::size_t row_bytes;
  bool each_step = true;  // in a batch of sequences; otherwise one row for each sequence
};

/// Where each tensor of a batch lies.
using BatchMemory = std::span<std::byte* const>;

/// The tensors of one kind of batch: those of the row's fields in their order, then its parts in
/// the order of BatchPart. Tensors, the targets that gathers write and the names of a
/// BatchExperience all follow from it. Keeps a reference to the layout.
class BatchPlan {
 public:
  /// The plan of single steps that sum up to `n_step` of them; `gamma` where there are discounts.
  /// Throws ValueError where the reward is not one float32 and is to be summed up.
  BatchPlan(const RowLayout& layout, std::uint32_t n_step, std::optional<double> gamma);

  /// The same plan with the parts of another kind of batch.
  BatchPlan with(PartOf kind) const;
  /// The plan of sequences of single steps, whose `first_fields` come once for each sequence.
  /// Throws ValueError for a field that the row does not have.
  BatchPlan of_sequences(const std::vector<std::size_t>& first_fields) const;

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  std::size_t num_fields() const { return tensors_.size() - parts_.size(); }
  /// The parts that the tensors after the fields hold.
  std::span<const BatchPart> parts() const { return parts_; }
  /// Bytes of one step in all tensors.
  std::size_t row_bytes() const { return row_bytes_; }

  /// Where a batch with these tensors goes, each row a sum of up to `n_step` steps. `columns` is
  /// the memory for the target's.
  BatchTarget target(BatchMemory memory, std::uint32_t n_step, std::vector<Column>& columns) const;
  /// Where the tensors go that come once for each sequence.
  BatchTarget firsts_target(BatchMemory memory, std::vector<Column>& columns) const;

 private:
  void add_parts(PartOf kind);
  void set_parts(BatchMemory memory, bool each_step, BatchTarget& target) const;
  void add_columns(BatchMemory memory, bool each_step, bool sums_rewards,
                   std::vector<Column>& columns) const;

  const RowLayout& layout_;
  std::optional<double> gamma_;
  std::size_t reward_ = 0;  // the field's number
  std::vector<TensorSpec> tensors_;
  std::vector<BatchPart> parts_;
  std::size_t row_bytes_ = 0;
};

}  // namespace velora
