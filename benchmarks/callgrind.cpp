// Lets Python tell callgrind where to count. Outside valgrind these do nothing.

#include <valgrind/callgrind.h>

extern "C" {

void start() { CALLGRIND_START_INSTRUMENTATION; }
void stop() { CALLGRIND_STOP_INSTRUMENTATION; }
void zero() { CALLGRIND_ZERO_STATS; }
void dump(const char* label) { CALLGRIND_DUMP_STATS_AT(label); }

}  // extern "C"
