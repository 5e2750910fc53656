#pragma once

#include <pybind11/pybind11.h>

namespace velora {

/// `push` of a Buffer object as a plain C function of one argument. A push is so short that the
/// generic dispatcher would be a good part of it. The function keeps `buffer` alive.
pybind11::object make_push_method(pybind11::object buffer);

/// Sets the Python error for the exception that is being handled, as the dispatcher would.
void set_python_error();

}  // namespace velora
