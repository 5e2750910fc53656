#include "core/threads/fork_count.h"

#include <atomic>

#include "core/values/mix.h"

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

namespace velora {

std::uint64_t detail::fork_count = 0;

namespace {

std::uint64_t path = 0;  // as the count

#if __has_include(<pthread.h>)
std::atomic<std::uint64_t> forks_made = 0;
thread_local std::uint64_t number = 0;  // of the fork that this thread makes

void count_in_parent() { number = ++forks_made; }  // several threads may fork at once

void count_in_child() {
  ++detail::fork_count;
  path = mix(path, number);
  forks_made = 0;
}

// When this code is loaded, so that no fork comes in the middle of it. A failure leaves forks
// uncounted.
[[maybe_unused]] const bool kIsCounting =
    pthread_atfork(count_in_parent, nullptr, count_in_child) == 0;
#endif

}  // namespace

std::uint64_t fork_path() { return path; }

}  // namespace velora
