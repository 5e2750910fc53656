// DeviceRuntime on CUDA: the object that is loaded when a buffer asks for a CUDA device.

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/device/runtime.h"
#include "core/values/errors.h"
#include "cuda/cooperative_grid.h"
#include "cuda/gae.cuh"
#include "cuda/kernels.cuh"
#include "cuda/unusable.h"
#include "cuda/use_device.h"

namespace velora::cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // or the next launch would report it again
  throw DeviceError(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t as_event(void* event) { return static_cast<cudaEvent_t>(event); }

/// The driver functions of UseDevice, found by the runtime: nothing here is linked with the driver.
class Driver {
 public:
  Driver()
      : get_context_(find<PFN_cuCtxGetCurrent_v4000>("cuCtxGetCurrent", 4000)),
        set_context_(find<PFN_cuCtxSetCurrent_v4000>("cuCtxSetCurrent", 4000)),
        get_device_(find<PFN_cuCtxGetDevice_v2000>("cuCtxGetDevice", 2000)) {}

  void* current_context() const {
    CUcontext context = nullptr;
    require(get_context_(&context), "cuCtxGetCurrent");
    return context;
  }
  int device_of_context() const {
    CUdevice device = 0;
    require(get_device_(&device), "cuCtxGetDevice");
    return device;
  }
  void set_context(void* context) const noexcept {
    static_cast<void>(set_context_(static_cast<CUcontext>(context)));
  }
  void set_device(int device) const { check(cudaSetDevice(device), "cudaSetDevice"); }

 private:
  template <typename Function>
  static Function find(const char* name, unsigned version) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result),
          "cudaGetDriverEntryPointByVersion");
#else
    static_cast<void>(version);
    check(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result),
          "cudaGetDriverEntryPoint");
#endif
    if (result == cudaDriverEntryPointSuccess) return reinterpret_cast<Function>(found);
    throw DeviceError(std::string("CUDA: the driver has no ") + name);
  }
  static void require(CUresult status, const char* what) {
    if (status == CUDA_SUCCESS) return;
    if (status == CUDA_ERROR_NOT_INITIALIZED) {
      throw DeviceError(why_unusable(NoDevices::kCannotStart, what, 0, CUDART_VERSION));
    }
    throw DeviceError(std::string("CUDA: ") + what + ": error " + std::to_string(status));
  }

  PFN_cuCtxGetCurrent_v4000 get_context_;
  PFN_cuCtxSetCurrent_v4000 set_context_;
  PFN_cuCtxGetDevice_v2000 get_device_;
};

/// Found when it is first asked for. Throws DeviceError each time that it is not.
const Driver& driver() {
  static const Driver found;
  return found;
}

/// Lets the calling thread do, while any stream is captured, what has nothing to do with that and
/// would be refused.
class AsideOfCapture {
 public:
  AsideOfCapture() {
    check(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode");
  }
  ~AsideOfCapture() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  AsideOfCapture(const AsideOfCapture&) = delete;
  AsideOfCapture& operator=(const AsideOfCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

class CudaRuntime final : public DeviceRuntime {
 public:
  explicit CudaRuntime(int device) : device_(device) {
    const auto use = use_device();
    draw_blocks_ = max_blocks(batch_by_blocks, DrawSpace::nbytes(DrawSpace::kMaxInBlock));
    batch_blocks_ = max_blocks(batch_by_blocks, 0);
    grid_blocks_ = cooperative_blocks(max_blocks(batch_by_grid, 0));
    sequence_blocks_ = cooperative_blocks(max_blocks(sequences_by_grid, 0));
    write_blocks_ = max_blocks(write_pieces, 0);
  }

  void* allocate_pinned(std::size_t bytes, const char* purpose) override {
    const auto use = use_device();
    const AsideOfCapture aside;
    void* memory = nullptr;
    constexpr unsigned kFlags = cudaHostAllocPortable | cudaHostAllocMapped;
    if (cudaHostAlloc(&memory, bytes, kFlags) == cudaSuccess) return memory;
    static_cast<void>(cudaGetLastError());
    throw MemoryError(std::string(purpose) + ": CUDA refused " + std::to_string(bytes) +
                      " bytes of pinned memory");
  }
  void free_pinned(void* memory) noexcept override { release(cudaFreeHost, memory); }

  void copy_to_device(std::byte* device, const std::byte* pinned, std::size_t bytes,
                      void* stream) override {
    const auto use = use_device();
    check(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, as_stream(stream)),
          "cudaMemcpyAsync to the device");
  }
  void copy_to_host(std::byte* host, const std::byte* device, std::size_t bytes,
                    void* stream) override {
    const auto use = use_device();
    const AsideOfCapture aside;  // the host waits, where its memory is not pinned
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, as_stream(stream)),
          "cudaMemcpyAsync to the host");
  }

  void* create_event() override {
    const auto use = use_device();
    const AsideOfCapture aside;
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    return event;
  }
  void free_event(void* event) noexcept override { release(cudaEventDestroy, as_event(event)); }
  void record(void* event, void* stream) override {
    const auto use = use_device();
    check(cudaEventRecord(as_event(event), as_stream(stream)), "cudaEventRecord");
  }
  void wait(void* event, void* stream) override {
    const auto use = use_device();
    check(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0), "cudaStreamWaitEvent");
  }
  bool has_passed(void* event) override {
    const auto use = use_device();  // or the runtime makes a context for a thread that has none
    const AsideOfCapture aside;
    const cudaError_t status = cudaEventQuery(as_event(event));
    if (status == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());
      return false;
    }
    check(status, "cudaEventQuery");
    return true;
  }
  void synchronize_event(void* event) override {
    const auto use = use_device();
    const AsideOfCapture aside;
    check(cudaEventSynchronize(as_event(event)), "cudaEventSynchronize");
  }
  void synchronize(void* stream) override {
    const auto use = use_device();
    const AsideOfCapture aside;
    check(cudaStreamSynchronize(as_stream(stream)), "cudaStreamSynchronize");
  }

  void* create_stream() override {
    const auto use = use_device();
    const AsideOfCapture aside;
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    return stream;
  }
  void free_stream(void* stream) noexcept override {
    release(cudaStreamDestroy, as_stream(stream));
  }
  bool is_capturing(void* stream) override {
    const auto use = use_device();
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(as_stream(stream), &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
  }
  bool graphs_wait_for_graphs() const override { return VELORA_GRAPHS_WAIT != 0; }
  void wait_when_run(void* event, void* stream) override {
    const auto use = use_device();
    check(cudaStreamWaitEvent(as_stream(stream), as_event(event), cudaEventWaitExternal),
          "cudaStreamWaitEvent in a graph");
  }
  void record_when_run(void* event, void* stream) override {
    const auto use = use_device();
    check(cudaEventRecordWithFlags(as_event(event), as_stream(stream), cudaEventRecordExternal),
          "cudaEventRecord in a graph");
  }

  void launch_write(const WriteParams& params, void* stream) override {
    const auto use = use_device();
    write_pieces<<<blocks(params.count, WriteParams::kTeam, write_blocks_), kBlockThreads, 0,
                   as_stream(stream)>>>(params);
    check(cudaGetLastError(), "launch of write_pieces");
  }
  void launch_clear(const ClearParams& params, void* stream) override {
    const auto use = use_device();
    clear_lanes<<<blocks(params.view.num_lanes, 1, write_blocks_), kBlockThreads, 0,
                  as_stream(stream)>>>(params);
    check(cudaGetLastError(), "launch of clear_lanes");
  }
  void launch_append(const AppendParams& params, void* stream) override {
    const auto use = use_device();
    append_columns<<<static_cast<unsigned>(params.num_groups()), kBlockThreads, 0,
                     as_stream(stream)>>>(params);
    check(cudaGetLastError(), "launch of append_columns");
  }
  void launch_batch(const BatchParams& params, void* stream) override {
    const auto use = use_device();
    const SelectParams& select = params.select;
    const std::uint64_t words = params.batch.columns.words;
    if (select.space != nullptr) {
      return launch_together(batch_by_grid, params, blocks(select.count, words, grid_blocks_),
                             stream);
    }
    const std::size_t shared = select.block_bytes();
    const unsigned most = shared > 0 ? draw_blocks_ : batch_blocks_;
    batch_by_blocks<<<blocks(select.count, words, most), kBlockThreads, shared,
                      as_stream(stream)>>>(params);
    check(cudaGetLastError(), "launch of batch_by_blocks");
  }
  void launch_sequences(const SequenceParams& params, void* stream) override {
    const auto use = use_device();
    const std::uint64_t words = params.steps.columns.words;
    launch_together(sequences_by_grid, params, blocks(params.num_rows(), words, sequence_blocks_),
                    stream);
  }

  void launch_gae(const GaeParams& params, void* stream) override {
    const auto use = use_device();
    const std::uint64_t words =
        device::gae_scratch_words(params.steps, params.width, params.is_double);
    if (words > 0) {
      check(cudaMemsetAsync(params.scratch, 0, words * sizeof(std::uint64_t), as_stream(stream)),
            "cudaMemsetAsync of the scratch of gae");
    }
    device::with_gae_scan(
        params, [&]<typename Real, typename Flag>(const device::GaeScan<Real, Flag>& scan) {
          const auto tiles = static_cast<unsigned>(device::gae_tiles(scan.plan));
          gae_by_tiles<<<tiles, device::kGaeThreads, 0, as_stream(stream)>>>(scan);
        });
    check(cudaGetLastError(), "launch of gae_by_tiles");
  }

 private:
  UseDevice<Driver> use_device() const { return {driver(), device_}; }

  /// As many as run at once: more gain nothing by it.
  template <typename Kernel>
  unsigned max_blocks(Kernel* kernel, std::size_t shared_bytes) const {
    int processors = 0;
    int blocks = 0;
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device_),
          "cudaDeviceGetAttribute");
    check(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kBlockThreads, shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    return static_cast<unsigned>(std::max(1, processors * blocks));
  }

  static unsigned blocks(std::uint64_t count, std::uint64_t words, unsigned most) {
    const std::uint64_t wanted =
        (device::useful_threads(count, words) + kBlockThreads - 1) / kBlockThreads;
    return static_cast<unsigned>(std::clamp<std::uint64_t>(wanted, 1, most));
  }

  /// All blocks at once, so that they can wait for each other. How many there are changes nothing
  /// else.
  template <typename Params>
  static void launch_together(void (*kernel)(Params), const Params& params, unsigned wanted,
                              void* stream) {
    void* arguments[] = {const_cast<Params*>(&params)};
    const auto launch = [&](unsigned blocks) {
      const cudaError_t status = cudaLaunchCooperativeKernel(kernel, blocks, kBlockThreads,
                                                             arguments, 0, as_stream(stream));
      if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
      return status;
    };
    check(launch_halving(wanted, cudaErrorCooperativeLaunchTooLarge, launch), "cooperative launch");
  }

  /// Errors of what frees are left unsaid: the driver may be gone already when a process ends.
  template <typename Free, typename Handle>
  void release(Free* free, Handle handle) const noexcept {
    try {
      const auto use = use_device();
      const AsideOfCapture aside;
      if (free(handle) != cudaSuccess) static_cast<void>(cudaGetLastError());
    } catch (const std::exception&) {
      return;
    }
  }

  int device_;
  unsigned draw_blocks_ = 0;  // of a batch that each block draws
  unsigned batch_blocks_ = 0;
  unsigned grid_blocks_ = 0;
  unsigned sequence_blocks_ = 0;
  unsigned write_blocks_ = 0;
};

static_assert(static_cast<int>(NoDevices::kCannotStart) == cudaErrorInitializationError);
static_assert(static_cast<int>(NoDevices::kInsufficientDriver) == cudaErrorInsufficientDriver);
static_assert(static_cast<int>(NoDevices::kNone) == cudaErrorNoDevice);

/// The one runtime of each device, made when it is first asked for and kept: buffers outlive
/// whatever order a process ends in.
DeviceRuntime* runtime_of(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    int driver_version = 0;
    static_cast<void>(cudaDriverGetVersion(&driver_version));
    throw DeviceError(why_unusable(static_cast<NoDevices>(status), cudaGetErrorString(status),
                                   driver_version, CUDART_VERSION));
  }
  if (device < 0 || device >= count) {
    throw DeviceError("this machine has " + std::to_string(count) +
                      " CUDA devices, and no cuda:" + std::to_string(device));
  }
  static std::mutex mutex;
  static auto* runtimes = new std::map<int, std::unique_ptr<CudaRuntime>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<CudaRuntime>& runtime = (*runtimes)[device];
  if (runtime == nullptr) runtime = std::make_unique<CudaRuntime>(device);
  return runtime.get();
}

}  // namespace
}  // namespace velora::cuda

/// The runtime of a device; null when `interface` is not the one that this object was built for.
/// Throws velora::DeviceError when there is no such device.
extern "C" __attribute__((visibility("default"))) velora::DeviceRuntime* velora_cuda_runtime(
    std::uint32_t interface, int device) {
  return interface == velora::kDeviceInterface ? velora::cuda::runtime_of(device) : nullptr;
}
