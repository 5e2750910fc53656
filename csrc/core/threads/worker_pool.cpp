#include "core/threads/worker_pool.h"

#include <algorithm>
#include <exception>
#include <memory>

namespace velora {
namespace {

std::atomic<WorkerPool*> shared_pool = nullptr;

/// Ends the threads before what they use is gone. The pool itself stays: other threads may still
/// come for it.
struct ExitStop {
  ~ExitStop() {
    WorkerPool* pool = shared_pool.load();
    if (pool != nullptr && pool->is_here()) pool->stop();
  }
};
const ExitStop kExitStop;

}  // namespace

/// One loop, which several threads go through together.
class WorkerPool::Job {
 public:
  Job(std::size_t num_parts, const Part& part) : num_parts_(num_parts), part_(part) {}

  void run() {
    for (std::size_t i = next_++; i < num_parts_; i = next_++) {
      try {
        part_(i);
      } catch (...) {
        next_ = num_parts_;
        if (!failed_.test_and_set()) error_ = std::current_exception();
      }
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::size_t num_parts_;
  const Part& part_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic_flag failed_;
  std::exception_ptr error_;
};

WorkerPool& WorkerPool::shared() {
  WorkerPool* found = shared_pool.load();
  if (found != nullptr && found->is_here()) return *found;
  // That of a parent is left as it is: its threads are gone, and what they held is unknown.
  auto fresh = std::make_unique<WorkerPool>();
  if (shared_pool.compare_exchange_strong(found, fresh.get())) found = fresh.release();
  return *found;
}

void WorkerPool::parallel_for(std::size_t num_parts, std::size_t num_threads, const Part& part) {
  Job job(num_parts, part);
  const std::size_t threads = std::min({num_parts, num_threads, kMaxThreads});
  if (threads < 2 || taken_.test_and_set(std::memory_order_acquire)) {
    job.run();
    return job.rethrow();
  }
  start_threads(threads - 1);
  {
    const std::lock_guard lock(mutex_);
    job_ = &job;
    vacancies_ = threads - 1;
  }
  for (std::size_t i = 1; i < threads; ++i) wanted_.notify_one();
  job.run();
  {
    std::unique_lock lock(mutex_);
    job_ = nullptr;
    finished_.wait(lock, [&] { return running_ == 0; });
  }
  taken_.clear(std::memory_order_release);
  taken_.notify_one();
  job.rethrow();
}

void WorkerPool::start_threads(std::size_t count) {
  try {
    while (threads_.size() < count) threads_.emplace_back([this] { work(); });
  } catch (const std::exception&) {
    return;  // with as many as the system has room for
  }
}

void WorkerPool::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wanted_.wait(lock, [&] { return stopping_ || (job_ != nullptr && vacancies_ > 0); });
    if (stopping_) return;
    --vacancies_;
    ++running_;
    Job* job = job_;
    lock.unlock();
    job->run();
    lock.lock();
    if (--running_ == 0) finished_.notify_one();
  }
}

void WorkerPool::stop() {
  if (stopping_) return;
  while (taken_.test_and_set(std::memory_order_acquire)) taken_.wait(true);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wanted_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace velora
