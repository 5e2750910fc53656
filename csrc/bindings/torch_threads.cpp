#include "bindings/torch_threads.h"

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace velora {

std::size_t torch_threads() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;
  const py::object& get_num_threads =
      storage
          .call_once_and_store_result(
              [] { return py::object(py::module_::import("torch").attr("get_num_threads")); })
          .get_stored();
  return py::cast<std::size_t>(get_num_threads());
}

}  // namespace velora
