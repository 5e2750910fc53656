#pragma once

// Marks the small inline functors that a CPU loop and a CUDA launch both run. Before a template
// that calls what its argument brings, VELORA_NO_EXEC_CHECK keeps nvcc from warning that a host
// could not call what only a device instantiation is given.
#if defined(__CUDACC__)
#define VELORA_HD __host__ __device__
#define VELORA_NO_EXEC_CHECK _Pragma("nv_exec_check_disable")
#else
#define VELORA_HD
#define VELORA_NO_EXEC_CHECK
#endif
