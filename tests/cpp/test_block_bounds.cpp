// Of how many blocks memory is asked for: no row leads to more than it needs, and one that is
// overwritten gives its own back first.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <random>
#include <vector>

#include "batches.h"
#include "core/device/store.h"
#include "core/host/batch_reader.h"
#include "core/host/store.h"
#include "core/values/errors.h"
#include "emulated_runtime.h"
#include "store_pair.h"

namespace velora {
namespace {

using testing::Batch;
using testing::Bytes;
using testing::EmulatedRuntime;
using testing::kSeed;
using testing::kStream;
using testing::random_rows;
using testing::RowSet;

constexpr std::size_t kChunkBytes = std::size_t{4} << 20;

/// Images of so many bytes for each of four frames.
RowLayout image_layout(std::size_t frame_bytes, std::uint32_t frame_stack) {
  const std::vector<std::int64_t> shape = {4, static_cast<std::int64_t>(frame_bytes)};
  return RowLayout(
      {{.name = "image", .role = Role::kState, .dtype = DType::kUInt8, .shape = shape},
       {.name = "reward", .role = Role::kReward, .dtype = DType::kFloat32, .shape = {1}},
       {.name = "next image", .role = Role::kNextState, .dtype = DType::kUInt8, .shape = shape}},
      {.compact = true, .frame_stack = frame_stack});
}

std::size_t chunks_of(std::uint64_t blocks, std::size_t block_bytes) {
  std::size_t each = 1;
  while (2 * each * block_bytes <= kChunkBytes) each *= 2;
  return (blocks + each - 1) / each * each * block_bytes;
}

struct Shape {
  std::uint64_t capacity;
  std::uint32_t num_lanes;
  std::uint32_t frame_stack;
  std::size_t frame_bytes;

  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    return out << shape.num_lanes << " x " << shape.capacity << " stacks of " << shape.frame_stack;
  }
};

// Few blocks to a chunk, so that a table with room for too few shows it.
const Shape kShapes[] = {
    {8, 1, 1, 256u << 10}, {5, 1, 1, 768u << 10}, {3, 3, 1, 300u << 10}, {1, 4, 1, 1u << 20},
    {6, 1, 4, 256u << 10}, {1, 1, 4, 700u << 10}, {2, 2, 2, 512u << 10},
};

class BlockBounds : public ::testing::TestWithParam<Shape> {
 protected:
  BlockBounds() : layout(image_layout(GetParam().frame_bytes, GetParam().frame_stack)) {}

  /// Rows of which none goes on where another stood: as many as there are places, and a few more.
  RowSet strangers(std::size_t more = 0) {
    return random_rows(random, layout, places() + more * GetParam().num_lanes);
  }
  std::size_t places() const {
    return (GetParam().capacity + GetParam().frame_stack - 1) * GetParam().num_lanes;
  }
  std::uint64_t most_blocks() const { return places() * (GetParam().frame_stack > 1 ? 2 : 1); }
  LaneOrder in_turn() const { return {.lanes = nullptr, .num_lanes = GetParam().num_lanes}; }

  RowLayout layout;
  std::mt19937_64 random{5};
};

TEST_P(BlockBounds, HostKeepsNoMoreBlocksThanItsRowsCanLeadTo) {
  Store store(layout, GetParam().capacity, GetParam().num_lanes, kSeed);
  const std::size_t rows_bytes = store.nbytes();
  for (std::size_t turn = 0; turn < 3; ++turn) {
    const RowSet rows = strangers(turn);
    store.append(in_turn(), rows.source(), rows.size());
    ASSERT_EQ(store.compact()->blocks().num_used(), most_blocks());
    ASSERT_EQ(store.nbytes() - rows_bytes, chunks_of(most_blocks(), layout.block_bytes()));
  }
}

TEST_P(BlockBounds, DeviceTableHoldsAllBlocksThatItsRowsCanLeadTo) {
  EmulatedRuntime runtime(1);
  Store host(layout, GetParam().capacity, GetParam().num_lanes, kSeed);
  DeviceStore device(layout, GetParam().capacity, GetParam().num_lanes, kSeed, runtime.device(),
                     StorageKind::kDevice, kStream);
  const std::size_t rows_bytes = device.nbytes();
  BatchReader reader(host);
  for (std::size_t turn = 0; turn < 3; ++turn) {
    const RowSet rows = strangers(turn);
    host.append(in_turn(), rows.source(), rows.size());
    device.append(in_turn(), rows.source(), rows.size(), kStream);
    runtime.synchronize(kStream);
    ASSERT_LE(device.nbytes() - rows_bytes,
              chunks_of(most_blocks(), layout.block_bytes()) + most_blocks() * sizeof(void*));
    const std::size_t count = host.view().size();
    Bytes expected(Batch::nbytes(layout, count));
    const DeviceMemory memory(runtime, expected.size(), "batch");
    std::memset(memory.data(), 0, expected.size());
    reader.take(0, count, Batch(layout, count, expected.data()).target());
    device.take(0, count, Batch(layout, count, memory.data()).target(), kStream);
    runtime.synchronize(kStream);
    const Batch batch(layout, count, expected.data());
    ASSERT_EQ(std::memcmp(memory.data(), expected.data(), batch.field_bytes()), 0);
  }
}

TEST_P(BlockBounds, AppendThatGetsNoMemoryChangesNothing) {
  EmulatedRuntime runtime(2);
  DeviceStore device(layout, GetParam().capacity, GetParam().num_lanes, kSeed, runtime.device(),
                     StorageKind::kDevice, kStream);
  const RowSet rows = strangers();
  const std::size_t nbytes = device.nbytes();
  const std::size_t chunks =
      (chunks_of(most_blocks(), layout.block_bytes()) + kChunkBytes - 1) / kChunkBytes;
  for (std::size_t granted = 0; granted < chunks; ++granted) {
    runtime.fail_allocation_after(granted);
    EXPECT_THROW(device.append(in_turn(), rows.source(), rows.size(), kStream), MemoryError);
    EXPECT_EQ(device.size(), 0u);
    EXPECT_EQ(device.nbytes(), nbytes);
  }
  runtime.fail_allocation_after(SIZE_MAX);
  device.append(in_turn(), rows.source(), rows.size(), kStream);
  EXPECT_EQ(device.size(), GetParam().capacity * GetParam().num_lanes);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BlockBounds, ::testing::ValuesIn(kShapes));

}  // namespace
}  // namespace velora
