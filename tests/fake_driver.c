/* In the place of libcuda.so.1: a driver for the CUDA version FAKE_DRIVER_VERSION, which answers
   cuInit with FAKE_DRIVER_STATUS. The CUDA runtime asks it before all else. */

#include <stdlib.h>
#include <string.h>

static int number_of(const char* name) { return atoi(getenv(name)); }

static int version(int* version) {
  *version = number_of("FAKE_DRIVER_VERSION");
  return 0;
}
static int init(unsigned flags) {
  (void)flags;
  return number_of("FAKE_DRIVER_STATUS");
}
static int refuse(void) { return 999; /* CUDA_ERROR_UNKNOWN */ }

int cuGetProcAddress_v2(const char* name, void** function, int version_of_it,
                        unsigned long long flags, int* status) {
  (void)version_of_it;
  (void)flags;
  if (status != NULL) *status = 0;
  *function = (void*)refuse;
  if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void*)version;
  if (strcmp(name, "cuInit") == 0) *function = (void*)init;
  if (strcmp(name, "cuGetProcAddress") == 0) *function = (void*)cuGetProcAddress_v2;
  return 0;
}
