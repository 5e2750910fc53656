#include "core/memory/block_store.h"

#include <algorithm>
#include <bit>

#include "core/values/errors.h"

namespace velora {
namespace {

constexpr const char* kPurpose = "observations beside the rows";
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
// Links between rows and blocks are numbers of 32 bits, of which two mean something else.
constexpr std::uint64_t kMaxBlocks = UINT32_MAX - 1;

}  // namespace

BlockStore::BlockStore(std::size_t block_bytes) : block_bytes_(block_bytes) {
  const std::size_t blocks =
      std::max<std::size_t>(1, kChunkBytes / std::max<std::size_t>(1, block_bytes));
  chunk_log2_ = static_cast<std::uint32_t>(std::bit_width(blocks) - 1);
  chunk_mask_ = (1u << chunk_log2_) - 1;
}

void BlockStore::reserve(std::uint64_t count) {
  const std::uint64_t needed = num_used() + count;
  if (needed > kMaxBlocks) {
    throw MemoryError("compact: expected at most " + std::to_string(kMaxBlocks) +
                      " observations beside the rows, got " + std::to_string(needed));
  }
  // Giving back must not fail, so there is room for each block that there can be.
  if (needed > free_.capacity()) free_.reserve(std::max(needed, 2 * free_.capacity()));
  const std::size_t before = chunks_.size();
  const std::uint64_t chunks = (needed + chunk_mask_) >> chunk_log2_;
  if (chunks <= before) return;
  const std::uint64_t added = chunks - before;
  const bool fits = added <= SIZE_MAX / chunk_bytes();
  MemoryClaim claim(fits ? added * chunk_bytes() : SIZE_MAX, kPurpose);
  chunk_memory_.reserve(chunks);
  chunks_.reserve(chunks);
  try {
    while (chunks_.size() < chunks) {
      chunk_memory_.push_back(Memory::anonymous(claim.split(chunk_bytes()), kPurpose));
      chunks_.push_back(chunk_memory_.back().data());
    }
  } catch (...) {
    chunk_memory_.resize(before);
    chunks_.resize(before);
    throw;
  }
}

std::uint32_t BlockStore::acquire() {
  if (free_.empty()) return static_cast<std::uint32_t>(used_++);
  const std::uint32_t block = free_.back();
  free_.pop_back();
  return block;
}

void BlockStore::clear() {
  free_.clear();
  used_ = 0;
}

}  // namespace velora
