#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace velora {

/// Allocates for vectors that are large for a while: kMapped bytes or more come from the system and
/// go back to it. malloc would keep them from the second time on, as it takes what was freed once
/// for what is needed again.
template <typename T>
struct MappedAllocator {
  using value_type = T;  // NOLINT(readability-identifier-naming): what containers expect
  static constexpr std::size_t kMapped = std::size_t{1} << 20;

  MappedAllocator() = default;
  template <typename U>
  // NOLINTNEXTLINE(google-explicit-constructor): containers convert it
  MappedAllocator(const MappedAllocator<U>& /*other*/) {}

  T* allocate(std::size_t count) {
    if (count > static_cast<std::size_t>(-1) / 2 / sizeof(T)) throw std::bad_array_new_length();
    const std::size_t bytes = count * sizeof(T);
    if (bytes < kMapped) return static_cast<T*>(::operator new(bytes));
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t count) noexcept {
    const std::size_t bytes = count * sizeof(T);
    if (bytes < kMapped) {
      ::operator delete(memory);
    } else {
      munmap(memory, bytes);
    }
  }
  friend bool operator==(const MappedAllocator&, const MappedAllocator&) { return true; }
};

}  // namespace velora
