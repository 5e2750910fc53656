#include "bindings/gather_lock.h"

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

#include "core/threads/worker_pool.h"

namespace velora {
namespace {

/// Takes the GIL again. When the interpreter has ended meanwhile, versions before 3.14 end a thread
/// that asks for it by unwinding its stack, which would release Python objects without the GIL.
/// Such a thread sleeps until the process is gone, as it does in later versions.
void acquire_gil(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    while (true) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

/// Runs work() without the GIL.
template <typename Work>
void without_gil(const Work& work) {
  PyThreadState* state = PyEval_SaveThread();
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  acquire_gil(state);
  if (error) std::rethrow_exception(error);
}

}  // namespace

void GatherLock::wait_turn() {
  free_after_fork();
  const std::uint64_t ticket = next_ticket_++;
  const auto is_my_turn = [&] { return !gathering_ && serving_ == ticket; };
  while (!is_my_turn()) {
    Waiters& waiters = *waiters_;
    const std::uint64_t seen = [&] {
      const std::lock_guard lock(waiters.mutex);
      return waiters.changes;
    }();
    without_gil([&] {
      std::unique_lock lock(waiters.mutex);
      waiters.changed.wait(lock, [&] { return waiters.changes != seen; });
    });
  }
  ++serving_;
  if (has_queue()) tell_waiters();
}

void GatherLock::tell_waiters() {
  {
    const std::lock_guard lock(waiters_->mutex);
    ++waiters_->changes;
  }
  waiters_->changed.notify_all();
}

void GatherLock::gather_without_gil(const std::function<void()>& gather) {
  free_after_fork();
  gathering_ = true;
  std::exception_ptr error;
  try {
    without_gil(gather);
  } catch (...) {
    error = std::current_exception();
  }
  gathering_ = false;
  if (has_queue()) tell_waiters();
  if (error) std::rethrow_exception(error);
}

void GatherLock::free_after_fork() {
  if (forks_ == fork_count()) return;
  // The threads that gathered or waited are the parent's. What they held of the mutex stays held,
  // so it is left behind.
  (void)waiters_.release();  // NOLINT(bugprone-unused-return-value): see above
  waiters_ = std::make_unique<Waiters>();
  gathering_ = false;
  serving_ = next_ticket_;
  forks_ = fork_count();
}

void UnlockedRunner::run(std::size_t num_parts, const Part& part) const {
  lock_.gather_without_gil(
      [&] { WorkerPool::shared().parallel_for(num_parts, num_threads_, part); });
}

}  // namespace velora
