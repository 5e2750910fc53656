#pragma once

#include <cooperative_groups.h>

#include <cstddef>
#include <cstdint>

#include "core/device_kernels.h"

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
  __device__ static std::uint32_t load(const std::uint32_t* word) {
    return *static_cast<const volatile std::uint32_t*>(word);
  }
  __device__ static void store(std::uint32_t* word, std::uint32_t value) {
    *static_cast<volatile std::uint32_t*>(word) = value;
  }
};

__device__ inline std::uint32_t grid_rank() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline std::uint32_t grid_size() { return gridDim.x * blockDim.x; }

/// Each block makes the whole draw by itself; the batch is written by all of them.
struct BlockGroup {
  using Atomics = ClaimAtomics<true>;

  template <typename F>
  __device__ void run(const F& f) const {
    f(threadIdx.x, blockDim.x);
    __syncthreads();
  }
  template <typename F>
  __device__ void spread(const F& f) const {
    f(grid_rank(), grid_size());
  }
};

/// All threads of a cooperative launch make one draw.
struct GridGroup {
  using Atomics = ClaimAtomics<false>;

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
    sample_by_blocks(const __grid_constant__ SampleParams params) {
  extern __shared__ std::uint64_t shared[];
  const auto count = static_cast<std::uint32_t>(params.gather.count);
  device::sample(BlockGroup{}, params, DrawSpace::in(reinterpret_cast<std::byte*>(shared), count));
}

__global__ void __launch_bounds__(kBlockThreads)
    sample_by_grid(const __grid_constant__ SampleParams params) {
  const auto count = static_cast<std::uint32_t>(params.gather.count);
  device::sample(GridGroup{}, params, DrawSpace::in(params.draw_space, count));
}

__global__ void __launch_bounds__(kBlockThreads)
    take_rows(const __grid_constant__ TakeParams params) {
  device::take(BlockGroup{}, params);
}

}  // namespace velora::cuda
