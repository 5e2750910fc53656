#pragma once

#include <cooperative_groups.h>

#include <cstddef>
#include <cstdint>

#include "core/device/runtime.h"

namespace velora::cuda {

inline constexpr unsigned kBlockThreads = 256;

/// The words of a claim table that the threads of one block, or of a whole grid, contend for.
template <bool kWithinBlock>
struct ClaimAtomics {
  __device__ static void fence() {
    if constexpr (kWithinBlock) {
      __threadfence_block();
    } else {
      __threadfence();
    }
  }
  __device__ static std::uint64_t compare_exchange(std::uint64_t* word, std::uint64_t expected,
                                                   std::uint64_t desired) {
    static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
    return atomicCAS(reinterpret_cast<unsigned long long*>(word), expected, desired);
  }
  /// The fences make it acquire and release: by themselves CUDA's atomics order nothing else.
  __device__ static std::uint32_t fetch_max(std::uint32_t* word, std::uint32_t value) {
    fence();
    const std::uint32_t before = atomicMax(word, value);
    fence();
    return before;
  }
  /// In shared memory by atomics as well: racecheck takes two volatile accesses without a barrier
  /// between them for a race, and nothing tells it which of them are meant.
  __device__ static std::uint32_t load(std::uint32_t* word) {
    if constexpr (kWithinBlock) {
      return atomicOr(word, 0u);
    } else {
      return *static_cast<const volatile std::uint32_t*>(word);
    }
  }
  __device__ static void store(std::uint32_t* word, std::uint32_t value) {
    if constexpr (kWithinBlock) {
      atomicExch(word, value);
    } else {
      *static_cast<volatile std::uint32_t*>(word) = value;
    }
  }
};

/// Words that any thread of a launch may change.
struct LaunchAtomics {
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));

  __device__ static void fence() { __threadfence(); }
  __device__ static std::uint32_t fetch_add(std::uint32_t* word, std::uint32_t value) {
    return atomicAdd(word, value);
  }
  __device__ static std::uint64_t fetch_add(std::uint64_t* word, std::uint64_t value) {
    return atomicAdd(reinterpret_cast<unsigned long long*>(word), value);
  }
  __device__ static std::uint64_t fetch_max(std::uint64_t* word, std::uint64_t value) {
    return atomicMax(reinterpret_cast<unsigned long long*>(word), value);
  }
  __device__ static std::uint64_t fetch_min(std::uint64_t* word, std::uint64_t value) {
    return atomicMin(reinterpret_cast<unsigned long long*>(word), value);
  }
  template <typename Word>
  __device__ static Word load(const Word* word) {
    return *static_cast<const volatile Word*>(word);
  }
  template <typename Word>
  __device__ static void store(Word* word, Word value) {
    *static_cast<volatile Word*>(word) = value;
  }
};

__device__ inline std::uint32_t grid_rank() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline std::uint32_t grid_size() { return gridDim.x * blockDim.x; }

/// Each block does by itself what its threads wait for; the batch is written by all blocks.
struct BlockGroup {
  using Atomics = ClaimAtomics<true>;
  using LaunchAtomics = cuda::LaunchAtomics;

  __device__ std::uint32_t count() const { return gridDim.x; }
  template <typename F>
  __device__ void run(const F& f) const {
    f(threadIdx.x, blockDim.x);
    __syncthreads();
  }
  template <typename F>
  __device__ bool agree(const F& f) const {
    return __syncthreads_or(threadIdx.x == 0 && f() ? 1 : 0) != 0;
  }
  template <typename F>
  __device__ void spread(const F& f) const {
    f(grid_rank(), grid_size());
  }
};

/// All threads of a cooperative launch wait for each other.
struct GridGroup {
  using Atomics = ClaimAtomics<false>;
  using LaunchAtomics = cuda::LaunchAtomics;

  __device__ std::uint32_t count() const { return 1; }
  template <typename F>
  __device__ void run(const F& f) const {
    f(grid_rank(), grid_size());
    cooperative_groups::this_grid().sync();
  }
  template <typename F>
  __device__ void spread(const F& f) const {
    f(grid_rank(), grid_size());
  }
};

__global__ void __launch_bounds__(kBlockThreads)
    write_pieces(const __grid_constant__ WriteParams params) {
  device::write_part(params, grid_rank(), grid_size());
}

__global__ void __launch_bounds__(kBlockThreads)
    clear_lanes(const __grid_constant__ ClearParams params) {
  device::clear_part(params, grid_rank(), grid_size());
}

__global__ void __launch_bounds__(kBlockThreads)
    append_columns(const __grid_constant__ AppendParams params) {
  device::append(BlockGroup{}, params, blockIdx.x);
}

__global__ void __launch_bounds__(kBlockThreads)
    batch_by_blocks(const __grid_constant__ BatchParams params) {
  extern __shared__ std::uint64_t shared[];
  device::make_batch(BlockGroup{}, params, reinterpret_cast<std::byte*>(shared));
}

__global__ void __launch_bounds__(kBlockThreads)
    batch_by_grid(const __grid_constant__ BatchParams params) {
  device::make_batch(GridGroup{}, params, params.select.space);
}

__global__ void __launch_bounds__(kBlockThreads)
    sequences_by_grid(const __grid_constant__ SequenceParams params) {
  device::make_sequences(GridGroup{}, params);
}

}  // namespace velora::cuda
