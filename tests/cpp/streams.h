#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "batches.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"

namespace velora::testing {

/// How observations follow each other, in chances of 1 in so many that they do not.
struct StreamHabits {
  std::uint32_t frames = 1;       // that a state is a stack of
  std::uint32_t values = 256;     // that a byte can have: with few, frames are often equal
  std::uint64_t broken_link = 8;  // the next state is not the state of the next row
  std::uint64_t broken_stack = 8;
};

/// Transitions of transition_layout() for some lanes, each of which mostly goes on where it stood.
class Streams {
 public:
  Streams(std::uint64_t seed, std::uint32_t num_lanes, StreamHabits habits)
      : random_(seed), habits_(habits), now_(num_lanes) {
    for (Observation& observation : now_) fill(observation, 0);
  }

  RowSet next(const LaneOrder& order, std::size_t count) {
    RowSet rows = random_rows(random_, transition_layout(), count);
    std::uint32_t lane = order.before_first();
    for (std::size_t i = 0; i < count; ++i) {
      lane = order.next(i, lane);
      Observation& now = now_[lane];
      if (one_in(habits_.broken_link)) fill(now, random_() % kImageBytes);
      put(now, rows, i, kImage);
      advance(now);
      put(now, rows, i, kNextImage);
      // After an end the lane begins anew, or says so and does not.
      if (rows.flags(i) != 0 && random_() % 4 != 0) fill(now, 0);
    }
    return rows;
  }
  std::mt19937_64& random() { return random_; }

 private:
  static constexpr std::size_t kImageBytes = 12;
  static constexpr std::size_t kPositionBytes = 2;
  struct Observation {
    std::byte image[kImageBytes];
    std::byte position[kPositionBytes];
  };

  bool one_in(std::uint64_t many) { return random_() % many == 0; }
  std::byte value() { return static_cast<std::byte>(random_() % habits_.values); }
  /// Random bytes from byte `from` of the image on.
  void fill(Observation& observation, std::size_t from) {
    std::generate(observation.image + from, observation.image + kImageBytes,
                  [&] { return value(); });
    for (std::byte& byte : observation.position) byte = value();
  }
  void advance(Observation& observation) {
    const std::size_t frame = kImageBytes / habits_.frames;
    if (one_in(habits_.broken_stack)) return fill(observation, 0);
    std::memmove(observation.image, observation.image + frame, kImageBytes - frame);
    fill(observation, kImageBytes - frame);
  }
  static void put(const Observation& observation, RowSet& rows, std::size_t i, std::size_t image) {
    std::memcpy(rows.at(i, image), observation.image, kImageBytes);
    std::memcpy(rows.at(i, image + 1), observation.position, kPositionBytes);
  }

  std::mt19937_64 random_;
  StreamHabits habits_;
  std::vector<Observation> now_;
};

}  // namespace velora::testing
