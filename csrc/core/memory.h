#pragma once

#include <cstddef>

namespace velora {

/// Throws MemoryError when `bytes` exceed the machine's memory: a system that overcommits would
/// grant them and end the process later. `purpose` begins the message.
void require_memory(std::size_t bytes, const char* purpose);

/// A zeroed, page-aligned mapping that this object owns, on huge pages where the system grants
/// them. The pages become resident when they are first written.
class Memory {
 public:
  Memory() = default;
  /// Throws MemoryError when `bytes` exceed the machine's memory or the mapping is refused;
  /// `purpose` begins the message.
  static Memory anonymous(std::size_t bytes, const char* purpose);

  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void release() noexcept;

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  void* mapping_ = nullptr;  // what the system gave: `data_` is aligned within it
  std::size_t mapping_size_ = 0;
};

}  // namespace velora
