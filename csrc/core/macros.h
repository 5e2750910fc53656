#pragma once

// Marks the small inline functors that a CPU loop and a CUDA launch both run.
#if defined(__CUDACC__)
#define VELORA_HD __host__ __device__
#else
#define VELORA_HD
#endif
