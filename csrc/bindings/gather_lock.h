#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "core/threads/fork_count.h"
#include "core/threads/parts.h"

namespace velora {

/// Keeps calls of a buffer apart while one of them gathers without the GIL.
///
/// The GIL keeps all other calls apart: they hold it from the first thing that they look at to the
/// last. A large gather lets go of it in the middle. Calls that must not come in between wait()
/// first, which costs a look at one flag where there is no such gather. Those that have to wait do
/// so without the GIL, and go on in the order in which they came; a call that finds no
/// gather passes them, unless it is going to gather itself. So no call waits for more than the
/// gathers that came before.
///
/// Needs the GIL throughout: it guards all that is here, but `changes`. In a child of fork the lock
/// is free, even if other threads held it.
class GatherLock {
 public:
  GatherLock() = default;
  GatherLock(const GatherLock&) = delete;
  GatherLock& operator=(const GatherLock&) = delete;

  /// Returns when no call gathers. Other code can run until then, and none does where it need not
  /// wait: a call waits before it looks at what such code could change.
  void wait() {
    if (gathering_) wait_turn();
  }
  /// The same for who is going to gather: after all who wait already.
  void wait_to_gather() {
    if (gathering_ || has_queue()) wait_turn();
  }
  /// Runs `gather` without the GIL, while others wait. Throws what it throws. Precondition:
  /// wait_to_gather() has returned, and no other code ran since.
  void gather_without_gil(const std::function<void()>& gather);

 private:
  /// How threads that wait without the GIL learn that something changed.
  struct Waiters {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t changes = 0;
  };

  bool has_queue() const { return next_ticket_ != serving_; }
  void wait_turn();
  void tell_waiters();
  void free_after_fork();

  bool gathering_ = false;
  std::uint64_t next_ticket_ = 0;       // of the next call that has to wait
  std::uint64_t serving_ = 0;           // of the call that may go on next
  std::uint64_t forks_ = fork_count();  // of the process that this is true of
  std::unique_ptr<Waiters> waiters_ = std::make_unique<Waiters>();
};

/// Gathers the parts of a batch without the GIL, on the threads of the process's pool.
class UnlockedRunner final : public PartRunner {
 public:
  /// Precondition: as for GatherLock::gather_without_gil.
  UnlockedRunner(GatherLock& lock, std::size_t num_threads)
      : lock_(lock), num_threads_(num_threads) {}

  std::size_t num_threads() const override { return num_threads_; }
  void run(std::size_t num_parts, const Part& part) const override;

 private:
  GatherLock& lock_;
  std::size_t num_threads_;
};

}  // namespace velora
