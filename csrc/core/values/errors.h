#pragma once

#include <stdexcept>
#include <string>

namespace velora {

/// A value, shape, dtype or argument that does not fit. Python sees ValueError.
class ValueError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// An operation that the buffer's present state does not allow. Python sees BufferError.
class BufferError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Memory that the machine does not have. Python sees MemoryError.
class MemoryError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A device that is missing or fails. Python sees RuntimeError.
class DeviceError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace velora
