#include "core/memory/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "core/memory/memory_limit.h"
#include "core/values/errors.h"

namespace velora {
namespace {

std::atomic<std::size_t> claimed = 0;

std::string bytes_text(std::size_t bytes) { return std::to_string(bytes) + " bytes"; }

[[noreturn]] void refuse(std::size_t bytes, const char* purpose, std::size_t others,
                         const MemoryLimit& limit) {
  std::string text = std::string(purpose) + ": needs " + bytes_text(bytes);
  if (others > 0) text += " beside " + bytes_text(others) + " that this process's buffers have";
  throw MemoryError(text + ", " + limit.owner + " has " + bytes_text(limit.bytes));
}

/// The system refused a mapping that there would be room for.
[[noreturn]] void refuse_mapping(std::size_t bytes, const char* purpose) {
  std::string why = "the system refused them (vm.overcommit_memory or vm.max_map_count)";
  const auto name_limit = [&](auto resource, const char* what) {
    rlimit limit = {};
    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
    why = std::string(what) + " is limited to " + bytes_text(limit.rlim_cur);
  };
  name_limit(RLIMIT_DATA, "the data of this process (ulimit -d)");
  name_limit(RLIMIT_AS, "the address space of this process (ulimit -v)");
  throw MemoryError(std::string(purpose) + ": needs " + bytes_text(bytes) + ", " + why);
}

}  // namespace

MemoryClaim::MemoryClaim(std::size_t bytes, const char* purpose) {
  const std::size_t others = claimed.load(std::memory_order_relaxed);
  // Room for what a mapping adds, too.
  if (bytes > SIZE_MAX - Memory::kHugePage - others) {
    refuse(bytes, purpose, others, memory_limit());
  }
  // Counted before it is checked: of two threads that come at once, one sees the other.
  claimed.fetch_add(bytes, std::memory_order_relaxed);
  bytes_ = bytes;
  if (bytes < kChecked) return;
  try {
    const MemoryLimit limit = memory_limit();
    const std::size_t all = claimed.load(std::memory_order_relaxed);
    if (all > limit.bytes) refuse(bytes, purpose, all - bytes, limit);
  } catch (...) {
    release();
    throw;
  }
}

void MemoryClaim::release() noexcept {
  claimed.fetch_sub(std::exchange(bytes_, 0), std::memory_order_relaxed);
}

std::size_t MemoryClaim::total() { return claimed.load(std::memory_order_relaxed); }

Memory Memory::anonymous(MemoryClaim claim, const char* purpose, Pages pages) {
  Memory memory;
  memory.claim_ = std::move(claim);
  const std::size_t bytes = memory.claim_.bytes();
  const bool aligned = bytes >= kHugePage;
  const std::size_t mapping_size = aligned ? bytes + kHugePage : bytes;
  void* mapping =
      mmap(nullptr, mapping_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) refuse_mapping(bytes, purpose);
  memory.mapping_ = mapping;
  memory.mapping_size_ = mapping_size;
  memory.size_ = bytes;
  auto address = reinterpret_cast<std::uintptr_t>(mapping);
  if (aligned) address = (address + kHugePage - 1) / kHugePage * kHugePage;
  memory.data_ = reinterpret_cast<std::byte*>(address);
#if defined(MADV_HUGEPAGE) && defined(MADV_NOHUGEPAGE)
  // Advice only. A system that is set to give huge pages to all has to be told where they do harm.
  if (aligned)
    madvise(memory.data_, bytes, pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
  return memory;
}

void Memory::use_huge_pages(std::size_t offset, std::size_t bytes) noexcept {
#ifdef MADV_HUGEPAGE
  constexpr int kCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, which older headers do not name
  // Where an older system refuses, it does so by itself in the background, after the advice.
  if (madvise(data_ + offset, bytes, MADV_HUGEPAGE) == 0) madvise(data_ + offset, bytes, kCollapse);
#endif
}

void Memory::release() noexcept {
  if (mapping_ != nullptr) munmap(mapping_, mapping_size_);
  mapping_ = nullptr;
}

Memory::~Memory() { release(); }

Memory::Memory(Memory&& other) noexcept
    : claim_(std::move(other.claim_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_size_(std::exchange(other.mapping_size_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  if (this != &other) {
    release();
    claim_ = std::move(other.claim_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    mapping_ = std::exchange(other.mapping_, nullptr);
    mapping_size_ = std::exchange(other.mapping_size_, 0);
  }
  return *this;
}

}  // namespace velora
