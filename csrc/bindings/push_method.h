#pragma once

#include <pybind11/pybind11.h>

namespace velora {

/// `push` of a Buffer object as a plain C function. A push is so short that the
/// generic dispatcher would be a good part of it. The function keeps `buffer` alive.
pybind11::object make_push_method(pybind11::object buffer);

}  // namespace velora
