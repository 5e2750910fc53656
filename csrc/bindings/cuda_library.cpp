#include "bindings/cuda_library.h"

#include <dlfcn.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/values/errors.h"

namespace velora {
namespace {

using RuntimeFactory = DeviceRuntime* (*)(std::uint32_t interface, int device);

[[noreturn]] void refuse(const std::string& why) {
  throw DeviceError("device: cannot use cuda: " + why + ", or pass device='cpu'");
}

std::filesystem::path chosen_path;
RuntimeFactory factory = nullptr;  // the GIL guards both

/// It lies beside the object that this code is in.
std::filesystem::path library_path() {
  if (!chosen_path.empty()) return chosen_path;
  Dl_info info;
  const auto* here = reinterpret_cast<const void*>(&library_path);
  if (dladdr(here, &info) == 0) refuse("velora cannot find its own files; reinstall velora");
  return std::filesystem::path(info.dli_fname).parent_path() / "_cuda.so";
}

RuntimeFactory load() {
  const std::filesystem::path path = library_path();
  if (!std::filesystem::exists(path)) {
    refuse(
        "this velora was built without its CUDA kernels; install the CUDA compiler (nvcc) and "
        "reinstall velora with --config-settings=cmake.define.VELORA_CUDA=on");
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) refuse(std::string(dlerror()) + "; reinstall velora");
  auto* found = reinterpret_cast<RuntimeFactory>(dlsym(library, "velora_cuda_runtime"));
  if (found == nullptr) refuse(path.string() + " is of another build; reinstall velora");
  return found;
}

}  // namespace

void use_cuda_library(const std::string& path) {
  chosen_path = path;
  factory = nullptr;
}

DeviceRuntime& cuda_runtime(int device) {
  if (factory == nullptr) factory = load();
  DeviceRuntime* runtime = nullptr;
  try {
    runtime = factory(kDeviceInterface, device);
  } catch (const DeviceError& error) {
    refuse(error.what());
  }
  if (runtime == nullptr) refuse("_cuda.so is of another build; reinstall velora");
  return *runtime;
}

}  // namespace velora
