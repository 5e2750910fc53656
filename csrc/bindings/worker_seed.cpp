#include "bindings/worker_seed.h"

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace velora {

DrawSeed::WorkerSeed worker_seed() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;
  const py::object& get_worker_info =
      storage
          .call_once_and_store_result([] {
            return py::object(py::module_::import("torch.utils.data").attr("get_worker_info"));
          })
          .get_stored();
  const py::object info = get_worker_info();
  if (info.is_none()) return std::nullopt;
  const py::object seed = info.attr("seed");
  const std::uint64_t value = PyLong_AsUnsignedLongLongMask(seed.ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

}  // namespace velora
