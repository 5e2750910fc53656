#pragma once

#include <cstddef>
#include <utility>

namespace velora {

/// A share of the memory that this process may have: all claims together stay within the machine's
/// memory and the limits of the control groups that the process is in. A system that overcommits
/// would grant more and end the process later.
///
/// The bytes count until this object ends, whether they are resident or not. Thread-safe.
class MemoryClaim {
 public:
  /// Claims of fewer bytes count as well, but are not checked, which takes as long as reading a few
  /// small files.
  static constexpr std::size_t kChecked = std::size_t{1} << 20;

  MemoryClaim() = default;
  /// Throws MemoryError if there is no room for these bytes beside all other claims; `purpose`
  /// begins the message.
  MemoryClaim(std::size_t bytes, const char* purpose);
  ~MemoryClaim() { release(); }
  MemoryClaim(MemoryClaim&& other) noexcept : bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryClaim& operator=(MemoryClaim&& other) noexcept {
    if (this != &other) {
      release();
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  MemoryClaim(const MemoryClaim&) = delete;
  MemoryClaim& operator=(const MemoryClaim&) = delete;

  std::size_t bytes() const { return bytes_; }
  /// Splits off a claim of some of these bytes. Precondition: there are at least as many.
  MemoryClaim split(std::size_t bytes) {
    MemoryClaim part;
    part.bytes_ = bytes;
    bytes_ -= bytes;
    return part;
  }
  /// Bytes of all claims of this process.
  static std::size_t total();

 private:
  void release() noexcept;

  std::size_t bytes_ = 0;
};

/// How a mapping becomes resident.
enum class Pages : unsigned char {
  kHuge,   // 2 MB at a time, where the system grants that: few misses in its address tables
  kSmall,  // what is written, and little around it, until use_huge_pages()
};

/// A zeroed, page-aligned mapping that this object owns. Its pages become resident when they are
/// first written.
class Memory {
 public:
  Memory() = default;
  /// Throws MemoryError when there is no room for `bytes` beside all other claims, or the mapping
  /// is refused; `purpose` begins the message.
  static Memory anonymous(std::size_t bytes, const char* purpose, Pages pages = Pages::kHuge) {
    return anonymous(MemoryClaim(bytes, purpose), purpose, pages);
  }
  /// The same of bytes that were claimed before.
  static Memory anonymous(MemoryClaim claim, const char* purpose, Pages pages = Pages::kHuge);

  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  /// Puts `bytes` from `offset` on, whole huge pages, on huge pages, where the system can: those
  /// that are resident in part, now; others when they are first written.
  void use_huge_pages(std::size_t offset, std::size_t bytes) noexcept;

 private:
  void release() noexcept;

  MemoryClaim claim_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  void* mapping_ = nullptr;  // what the system gave: `data_` is aligned within it
  std::size_t mapping_size_ = 0;
};

}  // namespace velora
