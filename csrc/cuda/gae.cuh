#pragma once

#include <cstdint>

#include "core/returns/gae_tile.h"

namespace velora::cuda {

/// Words that blocks show each other. A word is its own message, so nothing else is ordered by it.
struct GaeAtomics {
  __device__ static std::uint64_t add_one(std::uint64_t* word) {
    static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
    return atomicAdd(reinterpret_cast<unsigned long long*>(word), 1ULL);
  }
  /// Volatile, or a load could be answered by a cache that other blocks do not write to.
  __device__ static std::uint64_t load(const std::uint64_t* word) {
    return *static_cast<const volatile std::uint64_t*>(word);
  }
  __device__ static void store(std::uint64_t* word, std::uint64_t value) {
    *static_cast<volatile std::uint64_t*>(word) = value;
  }
  __device__ static void lower(std::uint32_t* word, std::uint32_t value) { atomicMin(word, value); }
  __device__ static void pause() { __nanosleep(20); }
};

template <typename Real>
struct GaeBlock {
  using Atomics = GaeAtomics;
  device::GaeThread<Real>& thread;

  template <typename F>
  __device__ void run(const F& f) const {
    f(threadIdx.x, thread);
    __syncthreads();
  }
  template <typename F>
  __device__ bool all(const F& f) const {
    return __syncthreads_and(f(threadIdx.x, thread)) != 0;
  }
  __device__ std::uint64_t block() const { return blockIdx.x; }
};

/// Blocks that share a processor. Being told, the compiler gives a thread the registers to have
/// nearly all its loads in flight; left alone it waits for them in three turns.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr unsigned kMostGaeBlocks = 4;
#else
inline constexpr unsigned kMostGaeBlocks = 5;
#endif
template <typename Real>
inline constexpr unsigned kGaeBlocks = sizeof(Real) == sizeof(float) ? kMostGaeBlocks : 3;

template <typename Real, typename Flag>
__global__ void __launch_bounds__(device::kGaeThreads, kGaeBlocks<Real>)
    gae_by_tiles(const __grid_constant__ device::GaeScan<Real, Flag> scan) {
  __shared__ device::GaeSpace<Real> space;
  device::GaeThread<Real> thread;
  device::gae_tile(GaeBlock<Real>{thread}, scan, space);
}

}  // namespace velora::cuda
