#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "bindings/tensor_view.h"
#include "core/values/array_view.h"

namespace velora {

/// A Python value as an array: a tensor (through torch's DLPack exchange table), anything with the
/// buffer protocol, __dlpack__ or __array__, or a plain number.
///
/// There are two steps. prepare() runs all code that reading takes, and look() runs none: memory
/// that is looked at stays as it is until other code runs. So a caller prepares all values of a
/// call, and anything else that may run code, before the first look.
class BorrowedArray {
 public:
  BorrowedArray() = default;
  ~BorrowedArray() { reset(); }
  BorrowedArray(const BorrowedArray&) = delete;
  BorrowedArray& operator=(const BorrowedArray&) = delete;
  BorrowedArray(BorrowedArray&& other) = delete;

  /// Holds `value`, or the array that it is turned into: a tensor on another device is copied to
  /// the host. `field` names it in errors. Throws ValueError for what cannot be read as an array in
  /// this process's memory.
  void prepare(PyObject* value, const char* field);
  /// Shows what was prepared as it is now. Runs no code. Throws ValueError where other code made
  /// something of it meanwhile that is no array, or is one that is to be prepared again.
  const ArrayView& look(const char* field);
  void reset();

 private:
  /// The first two show the same memory as long as they are held.
  enum class Form : std::uint8_t { kNumber, kBuffer, kTensor, kNdarray };

  bool prepare_buffer(const char* field);
  void prepare_tensor(const char* field);
  void convert(const char* field, const std::string& why);
  void look_at_tensor(const char* field);

  ArrayView view_;
  pybind11::object held_;
  Form form_ = Form::kNumber;
  Py_buffer buffer_{};
  NumberMemory number_{};
};

/// The same two steps for a tensor on a device whose numbers need no check. The first
/// returns what is to be held: `value`, or a tensor of torch's making where that has another dtype
/// or layout; null where `value` is none there, or only the host can tell whether its numbers fit.
pybind11::object prepare_on_device(PyObject* value, DType dtype, const TorchDevice& device);
/// Shows it as it is now. Runs no code. Throws ValueError where it is no such tensor any more.
ArrayView look_on_device(PyObject* tensor, DType dtype, const TorchDevice& device,
                         const char* field);

}  // namespace velora
