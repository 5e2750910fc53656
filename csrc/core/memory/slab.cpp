#include "core/memory/slab.h"

#include <algorithm>
#include <utility>

#include "core/values/errors.h"

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

/// The newest of that size, whose bytes are the likeliest to be in the cache still; or null.
std::unique_ptr<Slab> SlabPool::Idle::take(std::size_t size) {
  const auto match = std::find_if(slabs.rbegin(), slabs.rend(),
                                  [size](const auto& slab) { return slab->size() == size; });
  if (match == slabs.rend()) return nullptr;
  std::unique_ptr<Slab> slab = std::move(*match);
  slabs.erase(std::next(match).base());
  bytes -= size;
  return slab;
}

void SlabPool::Idle::drop_oldest() {
  bytes -= slabs.front()->size();
  slabs.erase(slabs.begin());
}

SlabReference SlabPool::acquire(std::size_t size, bool begins_batch) {
  size = std::max<std::size_t>(1, (size + kPage - 1) / kPage) * kPage;
  std::unique_ptr<Slab> slab = find_idle(size, begins_batch);
  if (slab == nullptr) {
    try {
      slab.reset(new Slab(Memory::anonymous(size, "batch")));
    } catch (const MemoryError&) {
      drop_idle();  // which takes memory for other sizes
      slab.reset(new Slab(Memory::anonymous(size, "batch")));
    }
  }
  slab->references_.store(1, std::memory_order_relaxed);
  slab->pool_ = shared_from_this();
  return SlabReference(slab.release());
}

std::unique_ptr<Slab> SlabPool::find_idle(std::size_t size, bool begins_batch) {
  const std::lock_guard lock(mutex_);
  if (begins_batch) {
    ++batch_;
    if (!large_.slabs.empty()) drop_stale();
  }
  if (size <= kLarge) return small_.take(size);
  note(size);
  return large_.take(size);
}

void SlabPool::drop_idle() {
  const std::lock_guard lock(mutex_);
  for (Idle* idle : {&small_, &large_}) {
    while (!idle->slabs.empty()) idle->drop_oldest();
  }
}

std::size_t SlabPool::idle_bytes() {
  const std::lock_guard lock(mutex_);
  return small_.bytes + large_.bytes;
}

/// A batch may ask for a size several times: that is once.
void SlabPool::note(std::size_t size) {
  const auto found = std::find_if(asked_.begin(), asked_.end(),
                                  [size](const Asked& asked) { return asked.size == size; });
  if (found == asked_.end()) {
    *std::min_element(asked_.begin(), asked_.end(), [](const Asked& a, const Asked& b) {
      return a.batch < b.batch;
    }) = {.size = size, .batch = batch_, .again = false};
  } else if (found->batch != batch_) {
    found->again = batch_ - found->batch <= kRecent;
    found->batch = batch_;
  }
}

bool SlabPool::comes_up_again(std::size_t size) const {
  return std::any_of(asked_.begin(), asked_.end(), [&](const Asked& asked) {
    return asked.size == size && asked.again && batch_ - asked.batch <= kRecent;
  });
}

void SlabPool::drop_stale() {
  std::erase_if(large_.slabs, [this](const std::unique_ptr<Slab>& slab) {
    if (comes_up_again(slab->size())) return false;
    large_.bytes -= slab->size();
    return true;
  });
}

void SlabPool::give_back(Slab* slab) noexcept {
  std::unique_ptr<Slab> dropped(slab);  // unmapped after the lock
  const std::lock_guard lock(mutex_);
  const bool is_large = slab->size() > kLarge;
  if (is_large && !comes_up_again(slab->size())) return;
  Idle& idle = is_large ? large_ : small_;
  const std::size_t most = is_large ? kLargeBytes : kSmallBytes;
  idle.bytes += slab->size();
  idle.slabs.push_back(std::move(dropped));
  while (idle.slabs.size() > kMaxIdle || (idle.bytes > most && idle.slabs.size() > 1)) {
    idle.drop_oldest();
  }
}

}  // namespace velora
