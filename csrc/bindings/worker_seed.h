#pragma once

#include "core/random/draw_seed.h"

namespace velora {

/// The seed that torch's DataLoader gave this process, if it is one of its workers. Can run code,
/// and throws Python's errors.
DrawSeed::WorkerSeed worker_seed();

}  // namespace velora
