#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/memory/memory.h"

namespace velora {

/// Pieces of memory of one size, by number, which come and go. Grows as they are needed; what was
/// given back is handed out again before anything new.
///
/// Every operation is O(1), but reserve() where it grows. Not synchronised.
class BlockStore {
 public:
  explicit BlockStore(std::size_t block_bytes);

  /// Makes sure that `count` more blocks can be acquired. Throws MemoryError, and then nothing has
  /// changed.
  void reserve(std::uint64_t count);
  /// Precondition: reserve() was told of it.
  std::uint32_t acquire();
  void release(std::uint32_t block) { free_.push_back(block); }
  /// Takes all blocks back.
  void clear();

  std::byte* at(std::uint32_t block) const {
    return chunks_[block >> chunk_log2_] + (block & chunk_mask_) * block_bytes_;
  }
  std::size_t block_bytes() const { return block_bytes_; }
  /// The memory of blocks 0, 1 and so on, pieces of 2^chunk_log2() each. Good until reserve().
  std::byte* const* chunks() const { return chunks_.data(); }
  std::uint32_t chunk_log2() const { return chunk_log2_; }
  /// Blocks that are handed out.
  std::uint64_t num_used() const { return used_ - free_.size(); }
  /// Bytes of memory, most of which the system provides when a block is first written.
  std::size_t nbytes() const { return chunks_.size() * chunk_bytes(); }

 private:
  std::size_t chunk_bytes() const { return (std::size_t{1} << chunk_log2_) * block_bytes_; }

  std::size_t block_bytes_;
  std::uint32_t chunk_log2_;  // blocks of a chunk
  std::uint32_t chunk_mask_;
  std::vector<Memory> chunk_memory_;
  std::vector<std::byte*> chunks_;
  std::uint64_t used_ = 0;  // blocks that were ever handed out
  std::vector<std::uint32_t> free_;
};

}  // namespace velora
