#include "core/slab.h"

#include <algorithm>
#include <utility>

namespace velora {
namespace {

constexpr std::size_t kPage = 4096;

}  // namespace

void Slab::release() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (free_companion_ != nullptr) std::exchange(free_companion_, nullptr)(companion_);
  const std::shared_ptr<SlabPool> pool = std::move(pool_);  // may be the pool's last owner
  pool->give_back(this);
}

Slab* SlabPool::acquire(std::size_t size) {
  size = std::max<std::size_t>(1, (size + kPage - 1) / kPage) * kPage;
  std::unique_ptr<Slab> slab;
  {
    const std::lock_guard lock(mutex_);
    // The newest first: its bytes are the likeliest to be in the cache still.
    const auto match = std::find_if(free_.rbegin(), free_.rend(),
                                    [size](const auto& free) { return free->size() == size; });
    if (match != free_.rend()) {
      slab = std::move(*match);
      free_.erase(std::next(match).base());
      free_bytes_ -= size;
    }
  }
  if (slab == nullptr) slab.reset(new Slab(Memory::anonymous(size, "batch")));
  slab->references_.store(1, std::memory_order_relaxed);
  slab->pool_ = shared_from_this();
  return slab.release();
}

void SlabPool::give_back(Slab* slab) noexcept {
  const std::lock_guard lock(mutex_);
  free_.emplace_back(slab);
  free_bytes_ += slab->size();
  while (free_.size() > kMaxFree || (free_bytes_ > kMaxFreeBytes && free_.size() > 1)) {
    free_bytes_ -= free_.front()->size();
    free_.erase(free_.begin());
  }
}

}  // namespace velora
