#include "core/rows/row_layout.h"

#include <algorithm>
#include <utility>

#include "core/values/array_view.h"
#include "core/values/errors.h"
#include "core/values/round_up.h"

namespace velora {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kWideCopy = 16;

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

/// A stack has frames, and dimensions for each of them.
std::uint32_t count_frames(const Field& field, std::uint32_t frame_stack) {
  const bool stacked = field.shape.size() >= 2 && field.shape[0] % frame_stack == 0;
  return stacked ? frame_stack : 1;
}

bool is_observation(const Field& field) {
  return field.role == Role::kState || field.role == Role::kNextState;
}

}  // namespace

RowLayout::RowLayout(std::vector<Field> fields, ObservationStorage observations)
    : fields_(std::move(fields)), observations_(observations) {
  const std::uint32_t frames = observations_.frame_stack;
  constexpr std::uint32_t kMost = ObservationStorage::kMaxFrameStack;
  if (frames == 0 || frames > (observations_.compact ? kMost : 1)) {
    throw ValueError("frame_stack: expected 1 to " + std::to_string(kMost) +
                     ", and more than 1 with compact rows only, got " + std::to_string(frames));
  }
  const auto observation = std::find_if(fields_.begin(), fields_.end(), is_observation);
  if (observations_.compact && observation == fields_.end()) {
    throw ValueError("compact: expected a state, got rows without one");
  }
  std::uint32_t most_frames = 1;
  for (Field& field : fields_) {
    field.nbytes = byte_size(field);
    if (is_observation(field)) field.frames = count_frames(field, frames);
    most_frames = std::max(most_frames, field.frames);
  }
  if (most_frames != frames) {
    throw ValueError(observation->name + ": expected a stack of " + std::to_string(frames) +
                     " frames along its first dimension (frame_stack=" + std::to_string(frames) +
                     "), got shape " + shape_text(observation->shape));
  }
  pitch_ = choose_pitch(lay_out_fields());
  if (observations_.compact) lay_out_blocks();
}

/// Returns the bytes of a row.
std::size_t RowLayout::lay_out_fields() {
  std::vector<Field*> in_row_order;
  for (Field& field : fields_) in_row_order.push_back(&field);
  std::stable_sort(in_row_order.begin(), in_row_order.end(), [](const Field* a, const Field* b) {
    return rank_of(a->role) < rank_of(b->role);
  });

  std::size_t offset = 0;
  bool flags_laid_out = false;
  const auto lay_out_flags = [&] {
    flags_offset_ = offset++;
    flags_laid_out = true;
    if (!observations_.compact) return;
    links_offset_ = round_up(offset, sizeof(std::uint32_t));
    offset = links_offset_ + 2 * sizeof(std::uint32_t);
  };
  for (Field* field : in_row_order) {
    if (!flags_laid_out && rank_of(field->role) > rank_of(Role::kReward)) lay_out_flags();
    if (observations_.compact && field->role == Role::kNextState) continue;
    field->offset = round_up(offset, size_of(field->dtype));
    offset = field->offset + field->nbytes / field->frames;
    if (offset > kMaxPitch) {
      throw ValueError(field->name + ": expected a row of at most " + std::to_string(kMaxPitch) +
                       " bytes, got " + std::to_string(offset) + " bytes up to this field");
    }
  }
  if (!flags_laid_out) lay_out_flags();
  return offset;
}

/// States and next states share blocks: their leaves come in one order, each with its twin.
void RowLayout::lay_out_blocks() {
  std::vector<const Field*> states;
  for (Field& field : fields_) {
    if (field.role != Role::kState) continue;
    field.block_offset = round_up(block_bytes_, size_of(field.dtype));
    block_bytes_ = field.block_offset + field.nbytes;
    states.push_back(&field);
  }
  auto state = states.begin();
  for (Field& field : fields_) {
    if (field.role != Role::kNextState) continue;
    if (state == states.end() || (*state)->shape != field.shape || (*state)->dtype != field.dtype) {
      throw ValueError(field.name + ": expected the shape and dtype of its state");
    }
    field.offset = (*state)->offset;
    field.block_offset = (*state)->block_offset;
    ++state;
  }
  if (state != states.end()) {
    throw ValueError((*state)->name + ": expected a next state for each state, got none");
  }
  block_bytes_ = round_up(block_bytes_, kCacheLine);
}

}  // namespace velora
