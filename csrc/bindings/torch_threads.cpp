#include "bindings/torch_threads.h"

#include "bindings/python_function.h"

namespace velora {

std::size_t torch_threads() {
  PYBIND11_CONSTINIT static PythonFunction get_num_threads("torch", "get_num_threads");
  return pybind11::cast<std::size_t>(get_num_threads());
}

}  // namespace velora
