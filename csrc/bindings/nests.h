#pragma once

#include <pybind11/pybind11.h>

namespace velora {

/// Adds functions over nests of dicts and tuples to the module.
void bind_nests(pybind11::module_& m);

}  // namespace velora
