#pragma once

#include <pybind11/pybind11.h>

namespace velora {

/// A uint8 tensor (nbytes,) that looks into `bytes` and keeps them: for readers only.
pybind11::object byte_tensor(pybind11::bytes bytes);

}  // namespace velora
