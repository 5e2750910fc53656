#pragma once

#include <pybind11/pybind11.h>

#include <string>

// Values of Python in words, for errors. Runs their code.

namespace velora {

/// Type and shape of a value: "float64 of shape (3,)".
std::string describe(PyObject* value);
/// The same, and how to make an array of a container that is none: "list; use np.array(...)".
std::string describe_with_hint(PyObject* value);

}  // namespace velora
