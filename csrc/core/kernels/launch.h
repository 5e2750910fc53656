#pragma once

#include <cstddef>
#include <cstdint>

#include "core/rows/compact_view.h"
#include "core/rows/lanes.h"
#include "core/rows/rows_view.h"
#include "core/values/macros.h"

// Launches run functors that any runtime can run: a CUDA grid does, and so does
// a loop on the host. They reach everything through a `Group`, some threads of the launch that have
// memory in common:
//
//   group.run(f)        f(rank, size) in each thread of the group; then all of it wait
//   group.spread(f)     f(rank, size) in each thread of the launch, without waiting
//   group.agree(f)      what f() returns in one thread of the group, in all of them
//   group.count()       how many groups the launch has
//   Group::Atomics      on words that the group shares
//   Group::LaunchAtomics  on words that the launch shares: load, store, fetch_add, fetch_max, fence
//
// Memory that a launch writes is there for the next launch in the same stream.

namespace velora {

inline constexpr std::uint32_t kLanesOfGroup = 16;

/// Bytes of parameters that every driver takes with a launch.
inline constexpr std::size_t kMaxLaunchBytes = 4096;

/// The rows of a device, as launches read them. Passed by value, like the rest of their parameters.
struct LaunchRows {
  RowsView view;          // of the device's lane states; its even_size is that of the host
  ControlBlock* control;  // on the device
  CompactView compact;    // of no frames where rows are whole
};

/// Words on the device by which the groups of a launch find out who is last. Zero between launches.
struct LaunchCounters {
  std::uint32_t drawn;  // groups that have read the number of the draw
  std::uint32_t unused;
};

namespace device {

/// Whether all groups of the launch have come here before. `arrived` is zero again after the last.
template <typename Atomics>
VELORA_HD inline bool is_last(std::uint32_t* arrived, std::uint32_t count) {
  Atomics::fence();
  if (Atomics::fetch_add(arrived, std::uint32_t{1}) + 1 != count) return false;
  Atomics::store(arrived, std::uint32_t{0});
  Atomics::fence();
  return true;
}

}  // namespace device
}  // namespace velora
