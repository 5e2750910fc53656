// What moving the bytes of a batch costs when nothing else is done: rows of a known layout, places
// drawn beforehand, outputs that are there already. No buffer that hands out tensors can be faster.
//
// Compiled for each layout with STATE_BYTES and ACTION_BYTES, so that every copy has a constant
// length. A row is state | action | reward | done | next state, on a pitch of whole cache lines.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kRowsAhead = 16;
constexpr std::size_t kPrefetchBytes = 1024;  // a longer row is followed by the hardware

constexpr std::size_t kAction = STATE_BYTES;
constexpr std::size_t kReward = kAction + ACTION_BYTES;
constexpr std::size_t kDone = kReward + sizeof(float);
constexpr std::size_t kNextState = kDone + sizeof(float);
constexpr std::size_t kRowBytes = kNextState + STATE_BYTES;
constexpr std::size_t kPitch = (kRowBytes + kCacheLine - 1) / kCacheLine * kCacheLine;

inline void prefetch(const std::byte* row) {
  constexpr std::size_t kBytes = kRowBytes < kPrefetchBytes ? kRowBytes : kPrefetchBytes;
  for (std::size_t at = 0; at < kBytes; at += kCacheLine) __builtin_prefetch(row + at, 0, 0);
}

}  // namespace

extern "C" {

struct Job {
  const std::byte* rows;
  const std::uint32_t* places;  // goes round them, so that no batch finds its rows in the cache
  std::size_t num_places;
  std::size_t cursor;
  std::size_t count;
  std::byte* states;
  std::byte* actions;
  std::byte* rewards;
  std::byte* next_states;
  std::byte* dones;
};

std::size_t pitch() { return kPitch; }

void gather(Job* job) {
  if (job->cursor + job->count > job->num_places) job->cursor = 0;
  const std::uint32_t* places = job->places + job->cursor;
  const std::size_t count = job->count;
  job->cursor += count;
  for (std::size_t i = 0; i < kRowsAhead && i < count; ++i) {
    prefetch(job->rows + places[i] * kPitch);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kRowsAhead < count) prefetch(job->rows + places[i + kRowsAhead] * kPitch);
    const std::byte* row = job->rows + places[i] * kPitch;
    std::memcpy(job->states + i * STATE_BYTES, row, STATE_BYTES);
    std::memcpy(job->actions + i * ACTION_BYTES, row + kAction, ACTION_BYTES);
    std::memcpy(job->rewards + i * sizeof(float), row + kReward, sizeof(float));
    std::memcpy(job->next_states + i * STATE_BYTES, row + kNextState, STATE_BYTES);
    std::memcpy(job->dones + i * sizeof(float), row + kDone, sizeof(float));
  }
}

}  // extern "C"
