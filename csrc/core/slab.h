#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/memory.h"

namespace velora {

class SlabPool;

/// One piece of memory for all tensors of one batch, counted by the tensors that look into it.
/// The last release() gives it back to its pool, from whatever thread that happens on.
class Slab {
 public:
  std::byte* data() const { return memory_.data(); }
  std::size_t size() const { return memory_.size(); }
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release();
  /// Calls free(companion) with the last release(): memory elsewhere that goes with the slab.
  void attach(void* companion, void (*free)(void*)) {
    companion_ = companion;
    free_companion_ = free;
  }

 private:
  friend class SlabPool;
  explicit Slab(Memory memory) : memory_(std::move(memory)) {}

  Memory memory_;
  std::atomic<int> references_{1};
  void* companion_ = nullptr;
  void (*free_companion_)(void*) = nullptr;
  std::shared_ptr<SlabPool> pool_;  // set while handed out: the pool outlives its slabs
};

/// Recycles slabs of equal size: fresh memory costs more than the copy that fills it.
///
/// Thread-safe. Keeps at most kMaxFree idle slabs and kMaxFreeBytes; the oldest go first.
class SlabPool : public std::enable_shared_from_this<SlabPool> {
 public:
  static constexpr std::size_t kMaxFree = 8;
  static constexpr std::size_t kMaxFreeBytes = std::size_t{256} << 20;

  static std::shared_ptr<SlabPool> create() { return std::shared_ptr<SlabPool>(new SlabPool); }
  SlabPool(const SlabPool&) = delete;
  SlabPool& operator=(const SlabPool&) = delete;

  /// A slab of at least `size` bytes, page-aligned, not zeroed, with one reference.
  /// Throws MemoryError.
  Slab* acquire(std::size_t size);

 private:
  friend class Slab;
  SlabPool() { free_.reserve(kMaxFree + 1); }  // giving back must not throw
  void give_back(Slab* slab) noexcept;

  std::mutex mutex_;
  std::vector<std::unique_ptr<Slab>> free_;
  std::size_t free_bytes_ = 0;
};

}  // namespace velora
