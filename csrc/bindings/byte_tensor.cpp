#include "bindings/byte_tensor.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "bindings/exchange_api.h"

namespace py = pybind11;

namespace velora {
namespace {

struct ByteTensor {
  DLManagedTensorVersioned managed;
  std::int64_t size;
  std::int64_t stride = 1;
  py::object bytes;
};

void release(DLManagedTensorVersioned* managed) {
  const py::gil_scoped_acquire gil;  // torch lets go of tensors on any thread
  delete static_cast<ByteTensor*>(managed->manager_ctx);
}

}  // namespace

py::object byte_tensor(py::bytes bytes) {
  auto owner = std::make_unique<ByteTensor>();
  owner->size = PyBytes_GET_SIZE(bytes.ptr());
  owner->managed = {.version = {1, 0},
                    .manager_ctx = owner.get(),
                    .deleter = release,
                    .flags = 0,
                    .dl_tensor = {.data = PyBytes_AS_STRING(bytes.ptr()),
                                  .device = {kDLCPU, 0},
                                  .ndim = 1,
                                  .dtype = to_dlpack_type(DType::kUInt8),
                                  .shape = &owner->size,
                                  .strides = &owner->stride,
                                  .byte_offset = 0}};
  owner->bytes = std::move(bytes);
  void* tensor = nullptr;
  if (exchange_api().managed_tensor_to_py_object_no_sync(&owner->managed, &tensor) != 0) {
    throw py::error_already_set();
  }
  (void)owner.release();  // NOLINT(bugprone-unused-return-value): the tensor's from here on
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(tensor));
}

}  // namespace velora
