#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/sampler.h"

// Arguments of Python calls as numbers. What is of the wrong kind is a TypeError (as a Python
// error), what is out of range a ValueError that names it. Reading one can run code.

namespace velora {

/// An int, or what counts as one, of at least 1.
std::size_t read_size(pybind11::handle value, const char* name);

/// One of `num_lanes` lanes; null or None where there is only one.
std::uint32_t read_lane(pybind11::handle lane, std::uint32_t num_lanes);

/// An array of lanes.
std::vector<std::uint32_t> read_lanes(pybind11::handle lanes, std::uint32_t num_lanes);

/// "pad", "within" or "cross".
SequenceBoundary read_boundary(const std::string& name);

}  // namespace velora
