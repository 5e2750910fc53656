#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "core/threads/fork_count.h"
#include "core/threads/parts.h"

namespace velora {

/// Threads that help their callers with loops, and sleep in between.
///
/// No caller waits for a thread that has not come yet: parts are taken one by one, so the caller
/// does those that no other thread takes, all of them on a machine that is busy otherwise. The pool
/// helps one caller at a time. Another one meanwhile does its parts alone, and so does a part that
/// calls the pool itself.
///
/// Thread-safe. Threads are started when they are first needed, and stay.
class WorkerPool {
 public:
  static constexpr std::size_t kMaxThreads = 256;

  /// The one of this process, whose threads end when the process exits. A child of fork has one of
  /// its own.
  static WorkerPool& shared();

  WorkerPool() = default;
  ~WorkerPool() { stop(); }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  /// Calls part(i) for each i < num_parts on up to `num_threads` threads, of which the caller is
  /// one, and returns when all are done. When parts throw, some may be left out; throws what one
  /// of them threw.
  void parallel_for(std::size_t num_parts, std::size_t num_threads, const Part& part);
  /// Waits for the caller that is being helped, and ends all threads. Later callers do all parts
  /// alone. Not to be called from two threads at once.
  void stop();
  /// Whether its threads are in this process.
  bool is_here() const { return forks_ == fork_count(); }

 private:
  class Job;

  void start_threads(std::size_t count);
  void work();

  const std::uint64_t forks_ = fork_count();
  std::atomic_flag taken_;  // by the caller that is being helped, who owns the threads
  std::vector<std::thread> threads_;
  std::mutex mutex_;  // of all below
  std::condition_variable wanted_;
  std::condition_variable finished_;
  Job* job_ = nullptr;
  std::size_t vacancies_ = 0;  // threads that may still join the job
  std::size_t running_ = 0;    // threads that have joined it
  bool stopping_ = false;
};

}  // namespace velora
