#include "core/fork_count.h"

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

namespace velora {
namespace {

std::uint64_t count = 0;  // changes only while a process has a single thread

#if __has_include(<pthread.h>)
// When this code is loaded, so that nobody forks in the middle of it. A failure leaves forks
// uncounted.
[[maybe_unused]] const bool kIsCounting = pthread_atfork(nullptr, nullptr, [] { ++count; }) == 0;
#endif

}  // namespace

std::uint64_t fork_count() { return count; }

}  // namespace velora
