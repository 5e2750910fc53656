#pragma once

#include <algorithm>

namespace velora::cuda {

/// How many blocks of a cooperative launch a device takes at most: half of those that fit.
///
/// Such a launch begins when all of its blocks can run at once. One that filled the device would
/// wait until everything on other streams is done.
inline unsigned cooperative_blocks(unsigned fitting) { return std::max(1u, fitting / 2); }

/// Calls launch(blocks) and, while it returns `too_large`, again with half as many: a green context
/// or a service that shares the device has fewer processors than the device says. Returns what the
/// last call did.
template <typename Status, typename Launch>
Status launch_halving(unsigned blocks, Status too_large, const Launch& launch) {
  Status status = launch(blocks);
  while (status == too_large && blocks > 1) {
    blocks /= 2;
    status = launch(blocks);
  }
  return status;
}

}  // namespace velora::cuda
