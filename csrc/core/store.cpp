#include "core/store.h"

#include <cstring>
#include <string>
#include <utility>

#include "core/errors.h"

namespace velora {
namespace {

constexpr std::size_t kPage = 4096;

std::size_t head_bytes(std::uint32_t num_lanes) {
  return (Lanes::nbytes(num_lanes) + kPage - 1) / kPage * kPage;
}

Memory allocate(const RowExtent& extent) {
  extent.check();
  const std::size_t head = head_bytes(extent.num_lanes);
  const std::size_t rows = extent.nbytes();
  const std::size_t bytes = rows > SIZE_MAX - head ? SIZE_MAX : head + rows;
  return Memory::anonymous(bytes, extent.describe().c_str());
}

}  // namespace

Store::Store(RowLayout layout, std::uint64_t lane_capacity, std::uint32_t num_lanes,
             std::uint64_t seed)
    : layout_(std::move(layout)),
      rows_offset_(head_bytes(num_lanes)),
      memory_(allocate({lane_capacity, num_lanes, layout_.pitch()})),
      lanes_(memory_.data(), {lane_capacity, num_lanes, layout_.pitch()}, seed) {}

void Store::restore(std::uint32_t lane, std::uint64_t pushed, std::span<const std::byte> rows) {
  const std::uint64_t pitch = layout_.pitch();
  const std::uint64_t count = count_rows(rows, pitch);
  lanes_.rewind(lane, pushed, count);
  for (std::uint64_t i = 0; i < count; ++i) {
    std::memcpy(next_row(lane), rows.data() + i * pitch, pitch);
    commit(lane);
  }
}

void Store::copy_rows(std::uint32_t lane, std::span<std::byte> rows) const {
  const RowsView view = this->view();
  std::byte* out = rows.data();
  for (std::uint64_t serial = view.begin(lane); serial < view.end(lane); ++serial) {
    std::memcpy(out, view.row({lane, serial}), view.pitch);
    out += view.pitch;
  }
}

std::uint64_t count_rows(std::span<const std::byte> rows, std::size_t pitch) {
  if (rows.size() % pitch != 0) {
    throw ValueError("rows: expected whole rows of " + std::to_string(pitch) + " bytes, got " +
                     std::to_string(rows.size()) + " bytes");
  }
  return rows.size() / pitch;
}

}  // namespace velora
