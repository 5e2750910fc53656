#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace velora {

/// Checks pytrees of field numbers by attribute, which others index by: dicts and tuples, in which
/// each of `num_fields` numbers is there once. Returns them. Throws ValueError, and RecursionError
/// for nests that are too deep to walk.
pybind11::dict check_trees(const pybind11::dict& trees, std::size_t num_fields);

}  // namespace velora
