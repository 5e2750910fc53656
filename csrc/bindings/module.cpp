#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/array_types.h"
#include "bindings/borrowed_array.h"
#include "bindings/buffer.h"
#include "bindings/byte_tensor.h"
#include "bindings/cuda_library.h"
#include "bindings/exchange_api.h"
#include "bindings/gae_cuda.h"
#include "bindings/native_methods.h"
#include "bindings/nests.h"
#include "bindings/python_errors.h"
#include "bindings/samplers.h"
#include "bindings/torch_device.h"
#include "bindings/worker_seed.h"
#include "core/random/draw_seed.h"
#include "core/values/errors.h"

namespace py = pybind11;

namespace {

velora::DType parse_dtype(const std::string& name) {
  for (int i = 0; i < velora::kDTypeCount; ++i) {
    const auto dtype = static_cast<velora::DType>(i);
    if (name == velora::name_of(dtype)) return dtype;
  }
  throw velora::ValueError("dtype: expected one that can be stored, got " + name);
}

velora::Role parse_role(const std::string& name) {
  if (name == "state") return velora::Role::kState;
  if (name == "action") return velora::Role::kAction;
  if (name == "reward") return velora::Role::kReward;
  if (name == "next_state") return velora::Role::kNextState;
  if (name == "extra") return velora::Role::kExtra;
  throw velora::ValueError("role: expected one of a field, got " + name);
}

constexpr std::pair<const char*, velora::StorageKind> kStorageNames[] = {
    {"cpu", velora::StorageKind::kHost},
    {"cuda", velora::StorageKind::kDevice},
    {"pinned", velora::StorageKind::kPinned},
};

velora::StorageKind parse_storage(const std::string& name) {
  for (const auto& [known, kind] : kStorageNames) {
    if (name == known) return kind;
  }
  throw velora::ValueError("storage: expected 'cpu', 'cuda' or 'pinned', got " + name);
}

const char* name_of(velora::StorageKind kind) {
  for (const auto& [name, known] : kStorageNames) {
    if (kind == known) return name;
  }
  throw std::logic_error("a kind of storage without a name");
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native core of velora's buffers. Private: use velora.buffer.";
  velora::load_exchange_api();
  velora::load_array_types();

  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      std::rethrow_exception(pointer);
    } catch (const velora::ValueError&) {
      velora::set_python_error();
    } catch (const velora::BufferError&) {
      velora::set_python_error();
    } catch (const velora::MemoryError&) {
      velora::set_python_error();
    }
  });

  velora::bind_nests(m);
  velora::bind_samplers(m);

  py::class_<velora::Field>(m, "Field", "One array of a row: name, role, dtype and shape.")
      .def(py::init([](std::string name, const std::string& role, const std::string& dtype,
                       std::vector<std::int64_t> shape) {
             return velora::Field{.name = std::move(name),
                                  .role = parse_role(role),
                                  .dtype = parse_dtype(dtype),
                                  .shape = std::move(shape)};
           }),
           py::arg("name"), py::arg("role"), py::arg("dtype"), py::arg("shape"));

  using velora::DrawSeed;
  py::class_<DrawSeed, std::shared_ptr<DrawSeed>>(
      m, "DrawSeed", "The seed of a buffer's draws: another in each process that has a copy of it.")
      .def(py::init([](std::uint64_t value) {
             return std::make_shared<DrawSeed>(value, velora::worker_seed());
           }),
           py::arg("value"))
      .def_static(
          "of_copy",
          [](std::uint64_t value, DrawSeed::WorkerSeed worker, std::uint64_t number) {
            return std::make_shared<DrawSeed>(DrawSeed::of_copy(value, worker, number));
          },
          py::arg("value"), py::arg("worker"), py::arg("number"),
          "For a process that is being started with a copy, by one that has this worker's seed.")
      .def(
          "set",
          [](DrawSeed& seed, std::uint64_t value) {
            const DrawSeed::WorkerSeed worker = velora::worker_seed();
            seed.set(value, worker);
          },
          py::arg("value"))
      .def_property_readonly(
          "value",
          [](DrawSeed& seed) {
            const DrawSeed::WorkerSeed worker = velora::worker_seed();
            seed.settle(worker);
            return seed.value();
          },
          "That of this process.")
      .def_property_readonly("worker", &DrawSeed::worker,
                             "The seed of the DataLoader's worker that it is for, if any.");

  using velora::BufferOptions;
  py::class_<BufferOptions>(m, "BufferOptions",
                            "Configuration of a buffer, besides the fields of its rows.")
      .def(py::init([](std::uint64_t lane_capacity, std::uint32_t num_lanes,
                       std::shared_ptr<DrawSeed> seed,
                       const std::optional<std::shared_ptr<velora::Sampler>>& sampler,
                       std::uint32_t n_step, std::optional<double> gamma, bool overwrite,
                       bool compact, std::uint32_t frame_stack, const std::string& storage,
                       std::optional<int> device) {
             return BufferOptions{.lane_capacity = lane_capacity,
                                  .num_lanes = num_lanes,
                                  .seed = std::move(seed),
                                  .sampler = sampler.value_or(nullptr),
                                  .n_step = n_step,
                                  .gamma = gamma,
                                  .overwrite = overwrite,
                                  .observations = {.compact = compact, .frame_stack = frame_stack},
                                  .storage = parse_storage(storage),
                                  .device = device ? &velora::TorchDevice::of(*device) : nullptr};
           }),
           py::kw_only(), py::arg("lane_capacity"), py::arg("num_lanes"),
           py::arg("seed").none(false), py::arg("sampler"), py::arg("n_step"), py::arg("gamma"),
           py::arg("overwrite"), py::arg("compact"), py::arg("frame_stack"), py::arg("storage"),
           py::arg("device"));

  py::class_<velora::Buffer>(m, "BufferCore", "The rows of one buffer and what is drawn from them.")
      .def(py::init([](std::vector<velora::Field> fields, const py::dict& trees,
                       const BufferOptions& options, py::object check_type,
                       std::vector<std::string> batch_names, py::object read_batch,
                       py::object batch_type) {
             velora::SchemaCalls schema = {.check_type = std::move(check_type),
                                           .batch_names = std::move(batch_names),
                                           .read_batch = std::move(read_batch),
                                           .batch_type = std::move(batch_type)};
             return std::make_unique<velora::Buffer>(std::move(fields), trees, options,
                                                     std::move(schema));
           }),
           py::kw_only(), py::arg("fields"), py::arg("trees"), py::arg("options"),
           py::arg("check_type"), py::arg("batch_names"), py::arg("read_batch"),
           py::arg("batch_type"))
      .def("__len__", &velora::Buffer::size)
      .def_property_readonly("push", &velora::make_push_method, "Appends one experience.")
      .def_property_readonly("extend", &velora::make_extend_method, "Appends steps.")
      .def("end_episodes", &velora::Buffer::end_episodes, py::arg("lanes"))
      .def_property_readonly("sample", &velora::make_sample_method, "Draws experiences.")
      .def("sample_sequences", &velora::Buffer::sample_sequences, py::arg("batch_size"),
           py::arg("length"), py::arg("burn_in"), py::arg("boundary"), py::arg("first_fields"))
      .def("batch_layout", &velora::Buffer::batch_layout, py::arg("batch_size"))
      .def("sample_into", &velora::Buffer::sample_into, py::arg("base"), py::arg("batch_size"))
      .def("name_batch", &velora::Buffer::name_batch, py::arg("tensors"))
      .def("gather", &velora::Buffer::gather, py::arg("indices"))
      .def("take", &velora::Buffer::take, py::arg("start"), py::arg("count"))
      .def("update_priorities", &velora::Buffer::update_priorities, py::arg("indices"),
           py::arg("priorities"))
      .def("update", &velora::Buffer::update, py::arg("indices"), py::arg("fields"))
      .def("clear", &velora::Buffer::clear)
      .def("lane_lengths", &velora::Buffer::lane_lengths)
      .def("count_pushed", &velora::Buffer::count_pushed)
      .def("is_even", &velora::Buffer::is_even)
      .def("seed", &velora::Buffer::seed, py::arg("value"))
      .def("state", &velora::Buffer::state)
      .def("restore", &velora::Buffer::restore, py::arg("lanes"), py::arg("draws"), py::arg("rows"),
           py::arg("blocks"), py::arg("sampler"))
      .def_property_readonly("is_compact", &velora::Buffer::is_compact)
      .def_property_readonly(
          "storage", [](const velora::Buffer& buffer) { return name_of(buffer.storage_kind()); })
      .def_property_readonly("nbytes", &velora::Buffer::nbytes);

  m.def(
      "require_cuda", [](int device) { velora::cuda_runtime(device); }, py::arg("device"),
      "Raises RuntimeError, which says what to do, when a CUDA device cannot hold rows.");

  m.def(
      "use_cuda_library", [](const std::string& path) { velora::use_cuda_library(path); },
      py::arg("path"),
      "Loads the CUDA runtime from there and not from beside this module: for tests.");

  m.def(
      "rows_nbytes",
      [](std::vector<velora::Field> fields, const BufferOptions& options) {
        const velora::RowLayout layout(std::move(fields), options.observations);
        return velora::RowExtent{options.lane_capacity, options.num_lanes, layout.pitch(),
                                 layout.frame_stack() - 1}
            .nbytes();
      },
      py::arg("fields"), py::arg("options"),
      "Bytes that rows of these fields take, without blocks beside them.");

  m.def(
      "gae_cuda",
      [](py::handle rewards, py::handle values, py::handle next_values, py::handle dones,
         py::handle truncations, double gamma, double lam, py::handle advantages,
         py::handle returns, py::handle scratch) {
        velora::gae_cuda({.rewards = rewards,
                          .values = values,
                          .next_values = next_values,
                          .dones = dones,
                          .truncations = truncations,
                          .advantages = advantages,
                          .returns = returns,
                          .scratch = scratch},
                         gamma, lam);
      },
      py::arg("rewards"), py::arg("values"), py::arg("next_values"), py::arg("dones"),
      py::arg("truncations"), py::arg("gamma"), py::arg("lam"), py::arg("advantages"),
      py::arg("returns"), py::arg("scratch"),
      "Fills advantages and returns, on torch's current stream. All are contiguous CUDA tensors.");

  m.def("gae_scratch_words", &velora::gae_scratch_words, py::arg("steps"), py::arg("width"),
        py::arg("itemsize"), "How many int64 `gae_cuda` needs for scratch.");

  m.def("byte_tensor", &velora::byte_tensor, py::arg("data"),
        "A uint8 tensor that looks into `data`: for readers only.");

  m.def(
      "check_lanes",
      [](py::handle lanes, std::uint32_t num_lanes) {
        if (!lanes.is_none()) velora::read_lanes(lanes, num_lanes);
      },
      py::arg("lanes"), py::arg("num_lanes"),
      "Raises ValueError for what is neither an array of lanes nor None.");

  m.def(
      "inspect",
      [](py::handle value, const std::string& field) {
        velora::BorrowedArray array;
        array.prepare(value.ptr(), field.c_str());
        const velora::ArrayView& view = array.look(field.c_str());
        return py::make_tuple(
            velora::name_of(view.dtype),
            py::tuple(py::cast(std::vector<std::int64_t>(view.shape, view.shape + view.ndim))));
      },
      py::arg("value"), py::arg("field"),
      "The dtype and shape that a value is read with. Raises ValueError for what is no array.");
}
