#include "core/row_layout.h"

#include <algorithm>
#include <utility>

#include "core/array_view.h"
#include "core/errors.h"

namespace velora {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kWideCopy = 16;

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Where the field stands in the row: the flags come between reward and next state.
int rank_of(Role role) { return static_cast<int>(role); }

std::size_t byte_size(const Field& field) {
  if (field.shape.size() > kMaxRowDims) {
    throw ValueError(field.name + ": expected at most " + std::to_string(kMaxRowDims) +
                     " dimensions, got " + std::to_string(field.shape.size()));
  }
  std::size_t bytes = size_of(field.dtype);
  for (const std::int64_t extent : field.shape) {
    if (extent <= 0) {
      throw ValueError(field.name + ": expected at least one element, got an empty array");
    }
    if (static_cast<std::size_t>(extent) > RowLayout::kMaxPitch / bytes) {
      throw ValueError(field.name + ": expected a row of at most " +
                       std::to_string(RowLayout::kMaxPitch) + " bytes, got a larger shape");
    }
    bytes *= static_cast<std::size_t>(extent);
  }
  return bytes;
}

std::size_t choose_pitch(std::size_t row_bytes) {
  const std::size_t pitch = round_up(row_bytes, kWideCopy);
  const std::size_t lines = round_up(row_bytes, kCacheLine);
  return lines - pitch <= pitch / 8 ? lines : pitch;
}

}  // namespace

RowLayout::RowLayout(std::vector<Field> fields) : fields_(std::move(fields)) {
  std::vector<Field*> in_row_order;
  for (Field& field : fields_) in_row_order.push_back(&field);
  std::stable_sort(in_row_order.begin(), in_row_order.end(), [](const Field* a, const Field* b) {
    return rank_of(a->role) < rank_of(b->role);
  });

  std::size_t offset = 0;
  bool flags_placed = false;
  for (Field* field : in_row_order) {
    if (!flags_placed && rank_of(field->role) > rank_of(Role::kReward)) {
      flags_offset_ = offset++;
      flags_placed = true;
    }
    field->nbytes = byte_size(*field);
    field->offset = round_up(offset, size_of(field->dtype));
    offset = field->offset + field->nbytes;
    if (offset > kMaxPitch) {
      throw ValueError(field->name + ": expected a row of at most " + std::to_string(kMaxPitch) +
                       " bytes, got " + std::to_string(offset) + " bytes up to this field");
    }
  }
  if (!flags_placed) flags_offset_ = offset++;
  pitch_ = choose_pitch(offset);
}

}  // namespace velora
