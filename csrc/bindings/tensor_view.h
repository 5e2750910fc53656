#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "bindings/torch_device.h"
#include "core/values/array_view.h"

// Memory and shape of Python's arrays. It needs the GIL throughout.

namespace velora {

/// A number read from Python, as memory that an ArrayView can show.
union NumberMemory {
  double real;
  std::int64_t integer;
  std::uint64_t natural;
  bool boolean;
};

/// The usual arguments: a plain tensor in host memory, a numpy array or a number. `view`
/// shows it (a number in `memory`) as long as the value is alive and no other code runs: it is
/// not held, and no code ran here. Returns false for values that need a BorrowedArray.
bool peek(PyObject* value, NumberMemory* memory, ArrayView* view);

/// The memory of a contiguous tensor with just this dtype and shape, on the host or, where it is
/// not null, on `device`, to be written to. Null for anything else, and for subclasses of
/// torch.Tensor. Runs no other code.
std::byte* writable_tensor(PyObject* value, DType dtype, std::span<const std::int64_t> shape,
                           const TorchDevice* device);

// Its parts, for BorrowedArray. Each view is as peek() says, and shows nothing where this returns
// false.

/// The DLPack view of a tensor in one call. Where torch refuses it, that is the Python error.
bool borrow_dense(PyObject* tensor, DLTensor* out);
/// A tensor of a dtype that there is and few enough dimensions; or also in host memory.
bool view_of_tensor(const DLTensor& tensor, ArrayView* view);
bool view_on_host(const DLTensor& tensor, ArrayView* view);
/// The imaginary part of a conjugate is a view that only says that it is negated, and DLPack does
/// not pass that on. Asking takes longer than the rest of a borrow, so a caller asks only where the
/// view can be one: every second number of a complex tensor, or a single one.
bool may_be_negated(const ArrayView& view);

/// An ndarray in native byte order.
bool view_of_ndarray(PyObject* value, ArrayView* view);
/// A number of Python, of 64 bits at most, or of numpy.
bool view_of_number(PyObject* value, NumberMemory* memory, ArrayView* view);

}  // namespace velora
