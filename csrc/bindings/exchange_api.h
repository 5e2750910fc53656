#pragma once

#include <ATen/dlpack.h>
#include <pybind11/pybind11.h>

#include "core/values/dtype.h"

namespace velora {

/// Looks up torch's exchange table: plain C functions that borrow tensors and make them. Throws
/// ImportError when torch does not offer version 1 of it.
void load_exchange_api();

/// Torch's table; load_exchange_api() comes first.
const DLPackExchangeAPI& exchange_api();

DLDataType to_dlpack_type(DType dtype);
/// Returns whether there is one.
bool from_dlpack_type(DLDataType type, DType* out);

/// Whether its elements lie one after the other, last dimension first.
bool is_contiguous(const DLTensor& tensor);

/// The stream on which torch queues the calling thread's work for a CUDA device.
void* current_stream(int device);

}  // namespace velora
