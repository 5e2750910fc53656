#pragma once

#include <cstddef>

#include "core/threads/parts.h"
#include "core/threads/worker_pool.h"

namespace velora::testing {

/// Does the parts of a batch from the last to the first.
class Backwards final : public PartRunner {
 public:
  explicit Backwards(std::size_t num_threads) : num_threads_(num_threads) {}
  std::size_t num_threads() const override { return num_threads_; }
  void run(std::size_t num_parts, const Part& part) const override {
    for (std::size_t i = num_parts; i-- > 0;) part(i);
  }

 private:
  std::size_t num_threads_;
};

/// Does them on three threads.
class OnThreads final : public PartRunner {
 public:
  std::size_t num_threads() const override { return 3; }
  void run(std::size_t num_parts, const Part& part) const override {
    WorkerPool::shared().parallel_for(num_parts, num_threads(), part);
  }
};

}  // namespace velora::testing
