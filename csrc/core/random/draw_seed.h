#pragma once

#include <cstdint>
#include <optional>

#include "core/threads/fork_count.h"

namespace velora {

/// The seed of a buffer's draws, and the process that it is for. In any other process that comes by
/// a copy of the buffer the seed becomes another, so that copies do not draw alike:
///
/// - a child of fork mixes in which child it is;
/// - a copy that was made to start a process mixes in its number among such copies;
/// - a worker of torch's DataLoader mixes in the seed that torch gave it, instead of either. That
///   is another one in each epoch, and repeats with torch's generator however workers start.
///
/// The next draw settles this: until then a copy costs nothing, and is_settled() is a comparison.
/// Not synchronised.
class DrawSeed {
 public:
  /// The seed that torch's DataLoader gave this process, if it is one of its workers.
  using WorkerSeed = std::optional<std::uint64_t>;

  /// For this process.
  DrawSeed(std::uint64_t value, WorkerSeed worker) : value_(value), worker_(worker) {}
  /// That of a copy for a process that is being started: `worker` is that of the process which made
  /// the copy, and `number` tells its copies apart.
  static DrawSeed of_copy(std::uint64_t value, WorkerSeed worker, std::uint64_t number);

  /// Whether it is for this process.
  bool is_settled() const { return settled_at_ == fork_count(); }
  /// Makes it that of this process, unless it is. `worker` is what this process has.
  void settle(WorkerSeed worker);
  /// Replaces the seed, for this process.
  void set(std::uint64_t value, WorkerSeed worker);

  std::uint64_t value() const { return value_; }
  /// Changes with each other value.
  std::uint64_t version() const { return version_; }
  WorkerSeed worker() const { return worker_; }

 private:
  static constexpr std::uint64_t kNowhere = UINT64_MAX;

  std::uint64_t value_;
  WorkerSeed worker_;                        // of the process that it is for
  std::optional<std::uint64_t> copy_;        // number of the copy, until it is settled
  std::uint64_t forks_ = fork_count();       // of the process that it was for, or came to as a copy
  std::uint64_t settled_at_ = fork_count();  // the same, or nowhere
  std::uint64_t version_ = 0;
};

}  // namespace velora
