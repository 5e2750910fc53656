#pragma once

#include <pybind11/pybind11.h>

#include "core/values/dtype.h"

// Which types of Python have arrays and numbers. Needs the GIL throughout.

namespace velora {

/// Looks up the types that are read without asking them. Once, before anything else.
void load_array_types();

/// torch.Tensor and torch.nn.Parameter, or also their subclasses.
bool is_plain_tensor(PyObject* value);
bool is_tensor(PyObject* value);
/// A subclass that intercepts operations (a fake, functional or distributed tensor) need not have
/// the memory that it shows. Can run code.
bool intercepts_operations(PyObject* value);

/// Just numpy.ndarray.
bool is_ndarray(PyObject* value);
/// All scalars of numpy; or all its arrays, too. Their subclasses as well.
bool is_numpy_scalar(PyObject* value);
bool is_of_numpy(PyObject* value);
/// A scalar of numpy of one of the types that run no code when they are read.
bool is_number_of_numpy(PyObject* value, DType* dtype);

/// Whether the type of a value has an attribute. Can run code.
bool type_has(PyObject* value, const char* name);
/// An object that knows more of its numbers than an array does, such as labels and which are
/// missing, and makes an array of them when it is asked: pandas and its like.
bool is_labelled(PyObject* value);

}  // namespace velora
