// Errors for compute-sanitizer to find: `planted memcheck` or `planted racecheck`.

#include <cuda_runtime.h>

#include <cstring>

namespace velora::planted {

constexpr int kThreads = 64;

__global__ void writes_outside(int* numbers) { numbers[threadIdx.x + 1] = 1; }

__global__ void reads_what_is_being_written(int* numbers) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = numbers[threadIdx.x];
  numbers[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

}  // namespace velora::planted

int main(int count, char** arguments) {
  using namespace velora::planted;
  int* numbers = nullptr;
  if (count < 2 || cudaMalloc(&numbers, kThreads * sizeof(int)) != cudaSuccess) return 1;
  if (cudaMemset(numbers, 0, kThreads * sizeof(int)) != cudaSuccess) return 1;
  if (std::strcmp(arguments[1], "memcheck") == 0) {
    writes_outside<<<1, kThreads>>>(numbers);
  } else {
    reads_what_is_being_written<<<1, kThreads>>>(numbers);
  }
  return cudaDeviceSynchronize() == cudaSuccess ? 0 : 2;
}
