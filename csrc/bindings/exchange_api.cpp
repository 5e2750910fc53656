#include "bindings/exchange_api.h"

#include <bit>
#include <cstdint>
#include <string>

namespace py = pybind11;

namespace velora {
namespace {

const DLPackExchangeAPI* loaded_api = nullptr;

// In the order of DType.
constexpr DLDataType kTypes[kDTypeCount] = {
    {kDLBool, 8, 1},    {kDLUInt, 8, 1},   {kDLUInt, 16, 1}, {kDLUInt, 32, 1}, {kDLUInt, 64, 1},
    {kDLInt, 8, 1},     {kDLInt, 16, 1},   {kDLInt, 32, 1},  {kDLInt, 64, 1},  {kDLFloat, 16, 1},
    {kDLBfloat, 16, 1}, {kDLFloat, 32, 1}, {kDLFloat, 64, 1}};

}  // namespace

void load_exchange_api() {
  const py::module_ torch = py::module_::import("torch");
  const py::object type = torch.attr("Tensor");
  const py::object capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
  const auto* api = capsule.is_none() ? nullptr
                                      : static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(
                                            capsule.ptr(), "dlpack_exchange_api"));
  while (api != nullptr && api->header.version.major != DLPACK_MAJOR_VERSION) {
    api = reinterpret_cast<const DLPackExchangeAPI*>(api->header.prev_api);
  }
  if (api == nullptr || api->dltensor_from_py_object_no_sync == nullptr) {
    PyErr_Clear();
    throw py::import_error(
        "velora needs a torch with version 1 of the DLPack C exchange API (torch >= 2.10), found " +
        std::string(py::str(torch.attr("__version__"))));
  }
  loaded_api = api;
}

const DLPackExchangeAPI& exchange_api() { return *loaded_api; }

DLDataType to_dlpack_type(DType dtype) { return kTypes[static_cast<int>(dtype)]; }

bool from_dlpack_type(DLDataType type, DType* out) {
  for (int i = kDTypeCount - 1; i >= 0; --i) {  // floats first: they are the most usual
    if (std::bit_cast<std::uint32_t>(type) != std::bit_cast<std::uint32_t>(kTypes[i])) continue;
    *out = static_cast<DType>(i);
    return true;
  }
  return false;
}

bool is_contiguous(const DLTensor& tensor) {
  std::int64_t stride = 1;
  for (int d = tensor.ndim; d-- > 0;) {
    if (tensor.shape[d] != 1 && tensor.strides[d] != stride) return false;
    stride *= tensor.shape[d];
  }
  return true;
}

void* current_stream(int device) {
  void* stream = nullptr;
  if (loaded_api->current_work_stream(kDLCUDA, device, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

}  // namespace velora
