// Moves the bytes of a batch and does nothing else: rows of a known layout, positions
// drawn beforehand, outputs that are there already. No buffer that hands out tensors can be faster.
//
//   gather     random rows into one output for each field; gather_on_threads does so on several
//   copy_runs  runs of rows that follow each other, as they are, into one packed output
//   split_runs the same runs into one output for each field
//   scatter    one row for each ring, from one input for each field
//
// Compiled for each layout with STATE_BYTES and ACTION_BYTES, so that every copy has a constant
// length. A row is state | action | reward | flags | next state, on a pitch of whole cache lines.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kRowsAhead = 16;
constexpr std::size_t kPrefetchBytes = 1024;  // a longer row is followed by the hardware

constexpr std::size_t kAction = STATE_BYTES;
constexpr std::size_t kReward = kAction + ACTION_BYTES;
constexpr std::size_t kFlags = kReward + sizeof(float);
constexpr std::size_t kNextState = kFlags + sizeof(float);
constexpr std::size_t kRowBytes = kNextState + STATE_BYTES;
constexpr std::size_t kPitch = (kRowBytes + kCacheLine - 1) / kCacheLine * kCacheLine;

constexpr std::size_t kPrefetched = kRowBytes < kPrefetchBytes ? kRowBytes : kPrefetchBytes;

inline void prefetch(const std::byte* row) {
  for (std::size_t at = 0; at < kPrefetched; at += kCacheLine) __builtin_prefetch(row + at, 0, 0);
}

inline void prefetch_to_write(const std::byte* row) {
  for (std::size_t at = 0; at < kPrefetched; at += kCacheLine) __builtin_prefetch(row + at, 1, 0);
}

// The positions of the next batch. They are used in a ring, so that no batch finds its rows in the
// cache.
template <typename Job>
const std::uint32_t* next_positions(Job* job) {
  if (job->cursor + job->count > job->num_positions) job->cursor = 0;
  const std::uint32_t* positions = job->positions + job->cursor;
  job->cursor += job->count;
  return positions;
}

// One array for each field, of as many elements as there are rows.
struct Columns {
  std::byte* states;
  std::byte* actions;
  std::byte* rewards;
  std::byte* next_states;
  std::byte* dones;
  std::byte* truncations;  // of inputs, whose flags have one byte each
};

inline void split(const std::byte* row, const Columns& to, std::size_t i) {
  std::memcpy(to.states + i * STATE_BYTES, row, STATE_BYTES);
  std::memcpy(to.actions + i * ACTION_BYTES, row + kAction, ACTION_BYTES);
  std::memcpy(to.rewards + i * sizeof(float), row + kReward, sizeof(float));
  std::memcpy(to.next_states + i * STATE_BYTES, row + kNextState, STATE_BYTES);
  std::memcpy(to.dones + i * sizeof(float), row + kFlags, sizeof(float));
}

struct GatherJob {
  const std::byte* rows;
  const std::uint32_t* positions;
  std::size_t num_positions;
  std::size_t cursor;
  std::size_t count;
  Columns outputs;
};

struct RunsJob {
  const std::byte* rows;
  const std::uint32_t* positions;  // of the first row of each run
  std::size_t num_positions;
  std::size_t cursor;
  std::size_t count;
  std::size_t length;
  std::byte* packed;
  Columns outputs;
};

struct ScatterJob {
  std::byte* rows;  // those of one ring after those of another
  std::size_t num_rings;
  std::size_t ring_rows;
  std::size_t slot;
  Columns inputs;
};

void gather_part(const GatherJob* job, const std::uint32_t* positions, std::size_t begin,
                 std::size_t end) {
  for (std::size_t i = begin; i < begin + kRowsAhead && i < end; ++i) {
    prefetch(job->rows + positions[i] * kPitch);
  }
  for (std::size_t i = begin; i < end; ++i) {
    if (i + kRowsAhead < end) prefetch(job->rows + positions[i + kRowsAhead] * kPitch);
    split(job->rows + positions[i] * kPitch, job->outputs, i);
  }
}

}  // namespace

extern "C" {

std::size_t pitch() { return kPitch; }

void gather(GatherJob* job) { gather_part(job, next_positions(job), 0, job->count); }

// In equal parts, the first on this thread.
void gather_on_threads(GatherJob* job, std::size_t num_threads) {
  const std::uint32_t* positions = next_positions(job);
  const auto start = [&](std::size_t part) { return job->count * part / num_threads; };
  std::vector<std::jthread> others;
  for (std::size_t part = 1; part < num_threads; ++part) {
    others.emplace_back(gather_part, job, positions, start(part), start(part + 1));
  }
  gather_part(job, positions, 0, start(1));
}

void copy_runs(RunsJob* job) {
  const std::uint32_t* positions = next_positions(job);
  const std::size_t nbytes = job->length * kPitch;
  for (std::size_t i = 0; i < job->count; ++i) prefetch(job->rows + positions[i] * kPitch);
  for (std::size_t i = 0; i < job->count; ++i) {
    std::memcpy(job->packed + i * nbytes, job->rows + positions[i] * kPitch, nbytes);
  }
}

void split_runs(RunsJob* job) {
  const std::uint32_t* positions = next_positions(job);
  for (std::size_t i = 0; i < job->count; ++i) prefetch(job->rows + positions[i] * kPitch);
  std::size_t to = 0;
  for (std::size_t i = 0; i < job->count; ++i) {
    const std::byte* row = job->rows + positions[i] * kPitch;
    for (std::size_t t = 0; t < job->length; ++t, ++to) split(row + t * kPitch, job->outputs, to);
  }
}

void scatter(ScatterJob* job) {
  const std::size_t rings = job->num_rings;
  const std::size_t distance = job->ring_rows * kPitch;
  std::byte* const first = job->rows + job->slot * kPitch;
  const Columns& from = job->inputs;
  for (std::size_t i = 0; i < kRowsAhead && i < rings; ++i) prefetch_to_write(first + i * distance);
  for (std::size_t i = 0; i < rings; ++i) {
    if (i + kRowsAhead < rings) prefetch_to_write(first + (i + kRowsAhead) * distance);
    std::byte* row = first + i * distance;
    std::memcpy(row, from.states + i * STATE_BYTES, STATE_BYTES);
    std::memcpy(row + kAction, from.actions + i * ACTION_BYTES, ACTION_BYTES);
    std::memcpy(row + kReward, from.rewards + i * sizeof(float), sizeof(float));
    row[kFlags] = from.dones[i];
    row[kFlags + 1] = from.truncations[i];
    std::memcpy(row + kNextState, from.next_states + i * STATE_BYTES, STATE_BYTES);
  }
  if (++job->slot == job->ring_rows) job->slot = 0;
}

}  // extern "C"
