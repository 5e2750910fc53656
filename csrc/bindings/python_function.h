#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

namespace velora {

/// A function of a Python module, imported when it is first called. To be a static variable.
class PythonFunction {
 public:
  constexpr PythonFunction(const char* module, const char* name) : module_(module), name_(name) {}

  /// Can run code, and throws Python's errors. Needs the GIL.
  pybind11::object operator()() {
    const auto look_up = [&] {
      return pybind11::object(pybind11::module_::import(module_).attr(name_));
    };
    return function_.call_once_and_store_result(look_up).get_stored()();
  }

 private:
  const char* module_;
  const char* name_;
  pybind11::gil_safe_call_once_and_store<pybind11::object> function_;
};

}  // namespace velora
