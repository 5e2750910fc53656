#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/host/gather.h"
#include "core/rows/row_layout.h"
#include "core/rows/row_source.h"

namespace velora::testing {

using Bytes = std::vector<std::byte>;

/// Saves the rows of a store, which may want a stream, and returns their blocks.
template <typename Store, typename... Stream>
Bytes save_to(std::span<std::byte> rows, Store& store, Stream... stream) {
  Bytes blocks;
  const auto memory = [&](std::size_t nbytes) {
    blocks.resize(nbytes);
    return blocks.data();
  };
  store.export_rows(ranges_of(store.lanes().save()), rows, memory, stream...);
  return blocks;
}

/// Fields of every word size, so that rows hold odd places and gaps.
inline RowLayout mixed_layout() {
  return RowLayout(
      {{.name = "state", .role = Role::kState, .dtype = DType::kFloat32, .shape = {17}},
       {.name = "frame", .role = Role::kState, .dtype = DType::kUInt8, .shape = {4, 8}},
       {.name = "action", .role = Role::kAction, .dtype = DType::kInt64, .shape = {1}},
       {.name = "reward", .role = Role::kReward, .dtype = DType::kFloat32, .shape = {1}},
       {.name = "half", .role = Role::kExtra, .dtype = DType::kFloat16, .shape = {3}},
       {.name = "bytes", .role = Role::kExtra, .dtype = DType::kUInt8, .shape = {5}}});
}

/// One byte of state, and nothing else.
inline RowLayout tiny_layout() {
  return RowLayout({{.name = "state", .role = Role::kState, .dtype = DType::kUInt8, .shape = {1}}});
}

/// More fields than a launch takes along.
inline RowLayout wide_layout(std::size_t fields) {
  std::vector<Field> list;
  for (std::size_t i = 0; i < fields; ++i) {
    list.push_back({.name = std::to_string(i),
                    .role = Role::kState,
                    .dtype = i % 2 == 0 ? DType::kFloat32 : DType::kUInt8,
                    .shape = {static_cast<std::int64_t>(1 + i % 3)}});
  }
  return RowLayout(std::move(list));
}

/// Transitions with an image, which may be a stack of 1, 2 or 4 frames, and a position, which is
/// none. The names of their places in the list are below.
inline RowLayout transition_layout(ObservationStorage observations = {}) {
  return RowLayout(
      {{.name = "image", .role = Role::kState, .dtype = DType::kUInt8, .shape = {4, 3}},
       {.name = "position", .role = Role::kState, .dtype = DType::kInt16, .shape = {1}},
       {.name = "action", .role = Role::kAction, .dtype = DType::kInt64, .shape = {1}},
       {.name = "reward", .role = Role::kReward, .dtype = DType::kFloat32, .shape = {1}},
       {.name = "next image", .role = Role::kNextState, .dtype = DType::kUInt8, .shape = {4, 3}},
       {.name = "next position", .role = Role::kNextState, .dtype = DType::kInt16, .shape = {1}},
       {.name = "hidden", .role = Role::kExtra, .dtype = DType::kFloat16, .shape = {3}}},
      observations);
}
inline constexpr std::size_t kImage = 0;  // the position follows it
inline constexpr std::size_t kReward = 3;
inline constexpr std::size_t kNextImage = 4;  // and so here
inline constexpr std::size_t kHidden = 6;

/// Rows that are about to be stored, with the memory of their fields.
class RowSet {
 public:
  RowSet(const RowLayout& layout, std::size_t count) : done_(count), truncated_(count) {
    for (const Field& field : layout.fields()) {
      nbytes_.push_back(field.nbytes);
      fields_.emplace_back(field.nbytes * count);
      starts_.push_back(fields_.back().data());
    }
  }
  RowSet(RowSet&&) = default;
  RowSet& operator=(RowSet&&) = default;
  RowSet(const RowSet&) = delete;
  RowSet& operator=(const RowSet&) = delete;

  std::size_t size() const { return done_.size(); }
  std::byte* at(std::size_t i, std::size_t field) {
    return fields_[field].data() + i * nbytes_[field];
  }
  const std::byte* at(std::size_t i, std::size_t field) const {
    return fields_[field].data() + i * nbytes_[field];
  }
  std::uint8_t flags(std::size_t i) const { return source().flags(i); }
  void set_flags(std::size_t i, std::uint8_t flags) {
    done_[i] = std::byte{flags} & std::byte{kDone};
    truncated_[i] = std::byte{flags} & std::byte{kTruncated};
  }
  RowSource source() const {
    return {.fields = starts_.data(), .done = done_.data(), .truncated = truncated_.data()};
  }

 private:
  std::vector<std::size_t> nbytes_;
  std::vector<Bytes> fields_;
  std::vector<const std::byte*> starts_;
  Bytes done_;
  Bytes truncated_;
};

/// Random bytes, but for rewards, which are numbers. About every third episode goes on.
inline RowSet random_rows(std::mt19937_64& random, const RowLayout& layout, std::size_t count) {
  RowSet rows(layout, count);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t f = 0; f < layout.fields().size(); ++f) {
      const Field& field = layout.fields()[f];
      for (std::size_t b = 0; b < field.nbytes; ++b) {
        rows.at(i, f)[b] = static_cast<std::byte>(random());
      }
      if (field.role != Role::kReward) continue;
      const float reward = static_cast<float>(static_cast<int>(random() % 2000) - 1000) / 7.0f;
      std::memcpy(rows.at(i, f), &reward, sizeof(reward));
    }
    rows.set_flags(i, random() % 3 == 0 ? static_cast<std::uint8_t>(1 + random() % kEnds) : 0);
  }
  return rows;
}

/// Where a batch finds a field.
inline Source source_of(const Field& field, const RowLayout& layout) {
  const bool next = field.role == Role::kNextState;
  if (layout.frame_stack() > 1 && (next || field.frames > 1)) {
    return next ? Source::kNextFrames : Source::kFrames;
  }
  return next ? Source::kNext : Source::kRow;
}

/// A batch of `count` rows in memory that `bytes` points to, laid out alike however rows are
/// stored.
class Batch {
 public:
  static std::size_t nbytes(const RowLayout& layout, std::size_t count) {
    std::size_t bytes = 0;
    for (const Field& field : layout.fields()) bytes += align(field.nbytes * count);
    return bytes + 7 * align(sizeof(std::int64_t) * count);
  }

  /// A field and where its values go.
  struct Part {
    std::size_t field;
    std::byte* out;
  };

  Batch(const RowLayout& layout, std::size_t count, std::byte* bytes, std::uint32_t n_step = 1)
      : Batch(layout, count, bytes, n_step, all_fields(layout)) {}
  /// Of these fields alone.
  Batch(const RowLayout& layout, std::size_t count, std::byte* bytes, std::uint32_t n_step,
        const std::vector<std::size_t>& fields) {
    const std::byte* const start = bytes;
    const auto part = [&](std::size_t size) { return std::exchange(bytes, bytes + align(size)); };
    const auto floats = [&] { return reinterpret_cast<float*>(part(sizeof(float) * count)); };
    target_.n_step = n_step;
    target_.gamma = 0.9;
    for (const std::size_t f : fields) {
      const Field& field = layout.fields()[f];
      std::byte* out = part(field.nbytes * count);
      parts_.push_back({f, out});
      if (field.role == Role::kReward && n_step > 1) {
        target_.reward_offset = field.offset;
        target_.rewards = reinterpret_cast<float*>(out);
        continue;
      }
      columns_.push_back({.row_offset = field.offset,
                          .nbytes = field.nbytes,
                          .out = out,
                          .source = source_of(field, layout),
                          .frames = field.frames,
                          .block_offset = field.block_offset});
    }
    field_bytes_ = static_cast<std::size_t>(bytes - start);
    target_.columns = columns_.data();
    target_.num_columns = static_cast<std::uint32_t>(columns_.size());
    target_.set(BatchPart::kDones, floats());
    target_.set(BatchPart::kTruncations, floats());
    target_.set(BatchPart::kDiscounts, floats());
    target_.set(BatchPart::kIsFirst, floats());
    if (n_step > 1) target_.set(BatchPart::kSteps, floats());
    target_.set(BatchPart::kIndices,
                reinterpret_cast<std::int64_t*>(part(sizeof(std::int64_t) * count)));
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  const BatchTarget& target() const { return target_; }
  const std::vector<Part>& parts() const { return parts_; }
  /// Of the fields: the first bytes of its memory.
  std::size_t field_bytes() const { return field_bytes_; }

 private:
  static std::size_t align(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  static std::vector<std::size_t> all_fields(const RowLayout& layout) {
    std::vector<std::size_t> fields(layout.fields().size());
    std::iota(fields.begin(), fields.end(), std::size_t{0});
    return fields;
  }

  std::vector<Part> parts_;
  std::size_t field_bytes_;
  std::vector<Column> columns_;
  BatchTarget target_ = {};
};

/// The target of steps whose mask lies at `mask`.
inline BatchTarget with_mask(BatchTarget steps, float* mask) {
  steps.set(BatchPart::kMask, mask);
  return steps;
}

}  // namespace velora::testing
