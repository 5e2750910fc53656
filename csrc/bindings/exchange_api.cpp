#include "bindings/exchange_api.h"

#include <cstdint>
#include <string>

namespace py = pybind11;

namespace velora {
namespace {

const DLPackExchangeAPI* loaded_api = nullptr;

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

DLDataType to_dlpack_type(DType dtype) {
  constexpr DLDataTypeCode kCodes[kDTypeCount] = {kDLBool,   kDLUInt,  kDLUInt, kDLUInt, kDLUInt,
                                                  kDLInt,    kDLInt,   kDLInt,  kDLInt,  kDLFloat,
                                                  kDLBfloat, kDLFloat, kDLFloat};
  return {static_cast<std::uint8_t>(kCodes[static_cast<int>(dtype)]),
          static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

bool from_dlpack_type(DLDataType type, DType* out) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    const DLDataType known = to_dlpack_type(dtype);
    if (type.code == known.code && type.bits == known.bits && type.lanes == known.lanes) {
      *out = dtype;
      return true;
    }
  }
  return false;
}

void* current_stream(int device) {
  void* stream = nullptr;
  if (loaded_api->current_work_stream(kDLCUDA, device, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

}  // namespace velora
