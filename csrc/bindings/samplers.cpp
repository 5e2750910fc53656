#include "bindings/samplers.h"

#include <memory>

#include "core/samplers/sampler.h"

namespace py = pybind11;

namespace velora {

void bind_samplers(py::module_& m) {
  py::class_<Sampler, std::shared_ptr<Sampler>>(m, "Sampler", "How a buffer chooses rows.");
}

}  // namespace velora
