#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>

namespace velora {

/// Work on one part, called with its number.
using Part = std::function<void(std::size_t)>;

/// Lets threads do the parts of a large piece of work.
class PartRunner {
 public:
  PartRunner() = default;
  virtual ~PartRunner() = default;
  PartRunner(const PartRunner&) = delete;
  PartRunner& operator=(const PartRunner&) = delete;

  /// Of how many threads the caller is one.
  virtual std::size_t num_threads() const = 0;
  /// Calls part(i) for each i < num_parts, in no order, and returns when all are done. Throws what
  /// a part threw.
  virtual void run(std::size_t num_parts, const Part& part) const = 0;
};

/// Enough for what a part costs by itself not to show, few enough for threads to finish together.
inline constexpr std::size_t kPartBytes = std::size_t{64} << 10;

/// Calls work(begin, end) for ranges that make up [0, count): for one range here and now where
/// there is no runner; otherwise in parts of about kPartBytes, which are multiples of `block`
/// where an item is that small.
template <typename Work>
void in_parts(const PartRunner* runner, std::size_t count, std::size_t item_bytes,
              std::size_t block, const Work& work) {
  if (runner == nullptr) return work(std::size_t{0}, count);
  std::size_t size = count;
  if (runner->num_threads() > 1) {
    size = std::max<std::size_t>(1, kPartBytes / item_bytes);
    if (size > block) size -= size % block;
  }
  runner->run((count + size - 1) / size,
              [&](std::size_t part) { work(part * size, std::min(count, (part + 1) * size)); });
}

}  // namespace velora
