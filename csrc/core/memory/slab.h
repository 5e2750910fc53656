#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/memory/memory.h"

namespace velora {

class SlabPool;

/// One piece of memory for tensors of one batch, counted by the tensors that look into it.
/// The last release() gives it back to its pool, from any thread.
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

/// A reference to a slab.
struct ReleaseSlab {
  void operator()(Slab* slab) const { slab->release(); }
};
using SlabReference = std::unique_ptr<Slab, ReleaseSlab>;

/// Recycles slabs of equal size: fresh memory costs more than the copy that fills it.
///
/// Small slabs are kept up to kSmallBytes, the newest of them. A large one is kept only while its
/// size comes up again and again: when two of the last kRecent batches asked for it. So a loop of
/// large batches is served from the same memory, and a single large batch leaves none behind.
///
/// Thread-safe. O(idle slabs).
class SlabPool : public std::enable_shared_from_this<SlabPool> {
 public:
  static constexpr std::size_t kLarge = std::size_t{1} << 20;
  static constexpr std::size_t kSmallBytes = std::size_t{8} << 20;
  /// Of large slabs; the newest one is kept however large it is.
  static constexpr std::size_t kLargeBytes = std::size_t{1} << 30;
  static constexpr std::size_t kMaxIdle = 64;  // slabs of either kind
  static constexpr std::uint64_t kRecent = 256;

  static std::shared_ptr<SlabPool> create() { return std::shared_ptr<SlabPool>(new SlabPool); }
  SlabPool(const SlabPool&) = delete;
  SlabPool& operator=(const SlabPool&) = delete;

  /// A slab of at least `size` bytes, page-aligned, not zeroed: the first of a batch.
  /// Throws MemoryError.
  SlabReference acquire(std::size_t size) { return acquire(size, true); }
  /// The same for the batch that acquire() began last.
  SlabReference acquire_beside(std::size_t size) { return acquire(size, false); }
  /// Bytes of idle slabs.
  std::size_t idle_bytes();

 private:
  friend class Slab;

  struct Idle {
    std::vector<std::unique_ptr<Slab>> slabs;  // the newest last
    std::size_t bytes = 0;

    std::unique_ptr<Slab> take(std::size_t size);
    void drop_oldest();
  };
  /// The last batch that asked for a large size, and whether another did shortly before.
  struct Asked {
    std::size_t size = 0;
    std::uint64_t batch = 0;
    bool again = false;
  };

  SlabPool() {  // giving back must not throw
    small_.slabs.reserve(kMaxIdle + 1);
    large_.slabs.reserve(kMaxIdle + 1);
  }
  SlabReference acquire(std::size_t size, bool begins_batch);
  std::unique_ptr<Slab> find_idle(std::size_t size, bool begins_batch);
  void drop_idle();
  void note(std::size_t size);
  bool comes_up_again(std::size_t size) const;
  void drop_stale();
  void give_back(Slab* slab) noexcept;

  std::mutex mutex_;
  Idle small_;
  Idle large_;
  std::uint64_t batch_ = 0;  // batches so far
  std::array<Asked, 16> asked_;
};

}  // namespace velora
