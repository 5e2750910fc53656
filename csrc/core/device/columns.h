#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/batch/target.h"
#include "core/kernels/gather.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"

namespace velora {

/// Bytes of the write buffer for what of one step is on the host.
std::size_t host_step_bytes(const RowLayout& layout, LaneRange lanes, const MixedSource& source);

/// The columns of a batch, as a launch copies them.
std::vector<DeviceColumn> device_columns(const BatchTarget& target, std::uint32_t frame_stack);

/// Bytes that a launch needs elsewhere for that many columns.
std::size_t columns_bytes(std::size_t count);
std::size_t columns_bytes(const BatchTarget& target);

/// Puts columns where a launch finds them: with it or, where there are too many, into `lists`, of
/// which it takes columns_bytes(). Gives each the widest words that its addresses allow.
void lay_out_columns(std::vector<DeviceColumn>& columns, std::byte*& lists, DeviceColumns* out);

}  // namespace velora
