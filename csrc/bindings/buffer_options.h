#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/torch_device.h"
#include "core/random/draw_seed.h"
#include "core/rows/row_layout.h"
#include "core/samplers/sampler.h"
#include "core/storage.h"

namespace velora {

/// Configuration of a buffer, besides the fields of its rows.
struct BufferOptions {
  std::uint64_t lane_capacity;
  std::uint32_t num_lanes;
  std::shared_ptr<DrawSeed> seed;
  /// Chooses the rows of batches, for this buffer alone. Null: Uniform.
  std::shared_ptr<Sampler> sampler;
  /// Steps that a sampled row sums up.
  std::uint32_t n_step;
  /// The discount factor. Buffers that have one return discounts.
  std::optional<double> gamma;
  /// A full lane drops its oldest row; without it, it refuses new ones.
  bool overwrite;
  ObservationStorage observations;
  /// Where rows are, and the device for batches: null for the host, which then has the rows, too.
  StorageKind storage;
  TorchDevice* device;

  /// Whether batches may have a row more than once.
  bool replaces() const { return sampler != nullptr && sampler->replaces(); }
  /// Whether batches have weights.
  bool has_weights() const { return sampler != nullptr && sampler->has_weights(); }
  /// The stream for a device's work: torch's current one.
  void* stream() const { return device == nullptr ? nullptr : device->current_stream(); }
};

/// Python that a buffer calls, and names that come from its schema.
struct SchemaCalls {
  /// Called with each new type of experience; raises for one that lacks a field or has another.
  pybind11::object check_type;
  /// The names of fields in extend(), in the order of the row: the pytrees' names, then
  /// done and truncated.
  std::vector<std::string> batch_names;
  /// Called with the arguments of an extend() that are others: returns a dict of attribute ->
  /// array, and lanes; or raises.
  pybind11::object read_batch;
  /// BatchExperience.
  pybind11::object batch_type;
};

}  // namespace velora
