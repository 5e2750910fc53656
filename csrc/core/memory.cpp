#include "core/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>

#include "core/errors.h"

namespace velora {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t physical_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_size = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_size <= 0) return SIZE_MAX;
  return static_cast<std::size_t>(pages) * static_cast<std::size_t>(page_size);
}

[[noreturn]] void refuse(std::size_t bytes, const char* purpose) {
  throw MemoryError(std::string(purpose) + ": needs " + std::to_string(bytes) +
                    " bytes, this machine has " + std::to_string(physical_memory()) + " bytes");
}

}  // namespace

void require_memory(std::size_t bytes, const char* purpose) {
  if (bytes > physical_memory() || bytes > SIZE_MAX - kHugePage) refuse(bytes, purpose);
}

Memory Memory::anonymous(std::size_t bytes, const char* purpose) {
  require_memory(bytes, purpose);
  const bool huge = bytes >= kHugePage;
  const std::size_t mapping_size = huge ? bytes + kHugePage : bytes;
  void* mapping =
      mmap(nullptr, mapping_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) refuse(bytes, purpose);

  Memory memory;
  memory.mapping_ = mapping;
  memory.mapping_size_ = mapping_size;
  memory.size_ = bytes;
  auto address = reinterpret_cast<std::uintptr_t>(mapping);
  if (huge) address = (address + kHugePage - 1) / kHugePage * kHugePage;
  memory.data_ = reinterpret_cast<std::byte*>(address);
#ifdef MADV_HUGEPAGE
  // Advice only: a system without huge pages works, with more misses in its address tables.
  if (huge) madvise(memory.data_, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

void Memory::release() noexcept {
  if (mapping_ != nullptr) munmap(mapping_, mapping_size_);
  mapping_ = nullptr;
}

Memory::~Memory() { release(); }

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_size_(std::exchange(other.mapping_size_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    mapping_ = std::exchange(other.mapping_, nullptr);
    mapping_size_ = std::exchange(other.mapping_size_, 0);
  }
  return *this;
}

}  // namespace velora
