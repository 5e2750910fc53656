#include "bindings/worker_seed.h"

#include "bindings/python_function.h"

namespace py = pybind11;

namespace velora {

DrawSeed::WorkerSeed worker_seed() {
  PYBIND11_CONSTINIT static PythonFunction get_worker_info("torch.utils.data", "get_worker_info");
  const py::object info = get_worker_info();
  if (info.is_none()) return std::nullopt;
  const py::object seed = info.attr("seed");
  const std::uint64_t value = PyLong_AsUnsignedLongLongMask(seed.ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

}  // namespace velora
