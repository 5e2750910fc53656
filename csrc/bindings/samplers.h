#pragma once

#include <pybind11/pybind11.h>

namespace velora {

/// Adds the samplers that a buffer can be given to the module.
void bind_samplers(pybind11::module_& m);

}  // namespace velora
