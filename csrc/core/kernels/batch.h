#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/gather.h"
#include "core/kernels/launch.h"
#include "core/kernels/select.h"
#include "core/values/macros.h"

namespace velora {

/// A batch of selected rows. Of more than there are, a draw is all padding.
struct BatchParams {
  LaunchRows rows;
  SelectParams select;
  DeviceBatch batch;
};
static_assert(sizeof(BatchParams) <= kMaxLaunchBytes);

namespace device {

VELORA_NO_EXEC_CHECK
template <typename Group>
VELORA_HD inline void make_batch(const Group& group, const BatchParams& params, std::byte* memory) {
  const Selection selection = select(group, params.rows, params.select, memory);
  group.spread([&](std::uint32_t rank, std::uint32_t size) {
    each_item(params.select.count, params.batch.columns.words, rank, size,
              [&](std::uint64_t i, TeamMember member) {
                gather_row(params.rows, params.batch, selection(i), i, member);
              });
  });
}

}  // namespace device
}  // namespace velora
