#include "bindings/samplers.h"

#include <array>
#include <memory>
#include <string>
#include <utility>

#include "core/samplers/prioritized.h"
#include "core/samplers/sampler.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {
namespace {

/// The value of a name. Throws ValueError for another name.
template <typename T, std::size_t kCount>
T find_name(const char* option, const std::string& name,
            const std::array<std::pair<const char*, T>, kCount>& values) {
  std::string expected;
  for (const auto& [known, value] : values) {
    if (name == known) return value;
    expected += (expected.empty() ? "'" : " or '") + std::string(known) + "'";
  }
  throw ValueError(std::string(option) + ": expected " + expected + ", got '" + name + "'");
}

std::shared_ptr<Prioritized> make_prioritized(double alpha, double beta, double eps,
                                              const std::string& normalise,
                                              const std::string& draws,
                                              const std::string& maximum) {
  constexpr std::array<std::pair<const char*, WeightScale>, 3> kScales = {{
      {"buffer", WeightScale::kBuffer},
      {"batch", WeightScale::kBatch},
      {"none", WeightScale::kNone},
  }};
  constexpr std::array<std::pair<const char*, bool>, 2> kDraws = {{
      {"stratified", true},
      {"independent", false},
  }};
  constexpr std::array<std::pair<const char*, MaximumOf>, 2> kMaxima = {{
      {"buffer", MaximumOf::kBuffer},
      {"all_time", MaximumOf::kAllTime},
  }};
  return std::make_shared<Prioritized>(
      PrioritizedOptions{.alpha = alpha,
                         .beta = beta,
                         .eps = eps,
                         .scale = find_name("normalise", normalise, kScales),
                         .stratified = find_name("draws", draws, kDraws),
                         .maximum = find_name("maximum", maximum, kMaxima)});
}

}  // namespace

void bind_samplers(py::module_& m) {
  const py::class_<Sampler, std::shared_ptr<Sampler>> base(m, "Sampler",
                                                           "How a buffer chooses rows.");
  py::class_<Prioritized, Sampler, std::shared_ptr<Prioritized>>(
      m, "Prioritized", "The sampler of a buffer with priorities.")
      .def(py::init(&make_prioritized), py::kw_only(), py::arg("alpha"), py::arg("beta"),
           py::arg("eps"), py::arg("normalise"), py::arg("draws"), py::arg("maximum"))
      .def_property(
          "alpha", [](const Prioritized& sampler) { return sampler.options().alpha; },
          &Prioritized::set_alpha, "Takes effect at the next draw.")
      .def_property(
          "beta", [](const Prioritized& sampler) { return sampler.options().beta; },
          &Prioritized::set_beta, "Takes effect at the next draw.");
}

}  // namespace velora
