#pragma once

#include <pybind11/pybind11.h>

namespace velora {

/// `push`, `extend` and `sample` of a Buffer object as plain C functions. What they do is so short
/// that the generic dispatcher would be a good part of it. The functions keep `buffer` alive.
pybind11::object make_push_method(pybind11::object buffer);
pybind11::object make_extend_method(pybind11::object buffer);
pybind11::object make_sample_method(pybind11::object buffer);

}  // namespace velora
