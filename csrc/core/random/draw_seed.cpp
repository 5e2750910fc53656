#include "core/random/draw_seed.h"

#include "core/values/mix.h"

namespace velora {
namespace {

/// Constants that are mixed in, so that equal numbers of different kinds do not give equal seeds.
enum Kind : std::uint64_t { kFork = 1, kCopy, kWorker };

std::uint64_t mix_in(std::uint64_t seed, Kind kind, std::uint64_t number) {
  return mix(mix(seed, kind), number);
}

}  // namespace

DrawSeed DrawSeed::of_copy(std::uint64_t value, WorkerSeed worker, std::uint64_t number) {
  DrawSeed seed(value, worker);
  seed.copy_ = number;
  seed.settled_at_ = kNowhere;
  return seed;
}

void DrawSeed::settle(WorkerSeed worker) {
  if (is_settled()) return;
  const std::uint64_t forks = fork_count() - forks_;
  const bool is_new_worker = worker && worker != worker_;
  // Where only the start of this worker lies between, how it was started makes no difference.
  if (!is_new_worker || forks + (copy_ ? 1 : 0) > 1) {
    if (copy_) value_ = mix_in(value_, kCopy, *copy_);
    if (forks > 0) value_ = mix_in(value_, kFork, fork_path());
  }
  if (is_new_worker) value_ = mix_in(value_, kWorker, *worker);
  set(value_, worker);
}

void DrawSeed::set(std::uint64_t value, WorkerSeed worker) {
  value_ = value;
  worker_ = worker;
  copy_.reset();
  forks_ = settled_at_ = fork_count();
  ++version_;
}

}  // namespace velora
