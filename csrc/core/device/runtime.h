#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/kernels/batch.h"
#include "core/kernels/sequences.h"
#include "core/kernels/write.h"
#include "core/returns/gae_scan.h"

namespace velora {

/// Device operations that a DeviceStore needs. Implemented for CUDA in csrc/cuda, and by an
/// emulation in the tests.
///
/// A stream is the runtime's own handle: work queued on one runs in order, later than the call
/// that queues it. Everything here only queues, but for what says that it waits. May be called
/// from any thread. Throws DeviceError for what the device refuses, MemoryError when there is no
/// room; what frees never throws.
class DeviceRuntime {
 public:
  DeviceRuntime() = default;
  virtual ~DeviceRuntime() = default;
  DeviceRuntime(const DeviceRuntime&) = delete;
  DeviceRuntime& operator=(const DeviceRuntime&) = delete;

  /// Whether the device's memory is the host's own: true of an emulation alone.
  virtual bool is_emulated() const { return false; }

  /// Host memory that the device reads and writes by itself, at the same address; aligned to 256
  /// bytes and not zeroed. `purpose` begins the message of a MemoryError.
  virtual void* allocate_pinned(std::size_t bytes, const char* purpose) = 0;
  virtual void free_pinned(void* memory) noexcept = 0;

  /// From pinned memory, which must stay as it is until the copy is done.
  virtual void copy_to_device(std::byte* device, const std::byte* pinned, std::size_t bytes,
                              void* stream) = 0;
  /// From the device's own memory: pinned memory is the host's, which reads it by itself once it
  /// has waited.
  virtual void copy_to_host(std::byte* host, const std::byte* device, std::size_t bytes,
                            void* stream) = 0;

  /// An event is a mark in a stream. Before its first record() it counts as passed.
  virtual void* create_event() = 0;
  virtual void free_event(void* event) noexcept = 0;
  virtual void record(void* event, void* stream) = 0;
  /// Work queued on `stream` from now on runs after the event's last record.
  virtual void wait(void* event, void* stream) = 0;
  /// Whether the event's last record has passed.
  virtual bool has_passed(void* event) = 0;
  /// The caller waits for the event's last record.
  virtual void synchronize_event(void* event) = 0;
  /// The caller waits for all that is queued on `stream`.
  virtual void synchronize(void* stream) = 0;

  /// A stream of one's own.
  virtual void* create_stream() = 0;
  virtual void free_stream(void* stream) noexcept = 0;
  /// Whether what is queued on the stream is captured as a graph, to be run later.
  virtual bool is_capturing(void* stream) = 0;
  /// As wait() and record(), on a stream that is capturing: done anew each time that the graph
  /// runs.
  virtual void wait_when_run(void* event, void* stream) = 0;
  virtual void record_when_run(void* event, void* stream) = 0;
  /// Whether a graph that waits for an event, and then records it, waits for the record of an
  /// earlier run. Otherwise it would wait for itself.
  virtual bool graphs_wait_for_graphs() const = 0;

  virtual void launch_write(const WriteParams& params, void* stream) = 0;
  virtual void launch_append(const AppendParams& params, void* stream) = 0;
  virtual void launch_clear(const ClearParams& params, void* stream) = 0;
  virtual void launch_batch(const BatchParams& params, void* stream) = 0;
  virtual void launch_sequences(const SequenceParams& params, void* stream) = 0;
  virtual void launch_gae(const GaeParams& params, void* stream) = 0;
};

/// Changes with every change of DeviceRuntime or of what it is handed: a runtime of another build
/// is recognised, not called.
inline constexpr std::uint32_t kDeviceInterface = 8;

/// Device memory, from its manager. A piece that is freed may serve others at once, in the
/// order of the stream on which it was allocated.
class DeviceAllocator {
 public:
  struct Piece {
    std::byte* data = nullptr;
    void* owner = nullptr;
  };

  DeviceAllocator() = default;
  virtual ~DeviceAllocator() = default;
  DeviceAllocator(const DeviceAllocator&) = delete;
  DeviceAllocator& operator=(const DeviceAllocator&) = delete;

  /// Aligned to 256 bytes and not zeroed. `purpose` begins the message of a MemoryError.
  virtual Piece allocate(std::size_t bytes, const char* purpose) = 0;
  virtual void free(void* owner) noexcept = 0;
};

/// The device of a DeviceStore.
struct Device {
  DeviceRuntime& runtime;
  DeviceAllocator& allocator;
};

/// Memory of an allocator.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceAllocator& allocator, std::size_t bytes, const char* purpose)
      : allocator_(&allocator), piece_(allocator.allocate(bytes, purpose)) {}
  ~DeviceMemory() { reset(); }
  DeviceMemory(DeviceMemory&& other) noexcept
      : allocator_(other.allocator_), piece_(std::exchange(other.piece_, {})) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    if (this != &other) {
      reset();
      allocator_ = other.allocator_;
      piece_ = std::exchange(other.piece_, {});
    }
    return *this;
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  std::byte* data() const { return piece_.data; }

 private:
  void reset() noexcept {
    if (piece_.owner != nullptr) allocator_->free(piece_.owner);
    piece_ = {};
  }

  DeviceAllocator* allocator_ = nullptr;
  DeviceAllocator::Piece piece_;
};

/// Something else that a runtime gave and gets back.
template <void (DeviceRuntime::*kFree)(void*) noexcept>
class DeviceHandle {
 public:
  DeviceHandle() = default;
  DeviceHandle(DeviceRuntime& runtime, void* handle) : runtime_(&runtime), handle_(handle) {}
  ~DeviceHandle() { reset(); }
  DeviceHandle(DeviceHandle&& other) noexcept
      : runtime_(other.runtime_), handle_(std::exchange(other.handle_, nullptr)) {}
  DeviceHandle& operator=(DeviceHandle&& other) noexcept {
    if (this != &other) {
      reset();
      runtime_ = other.runtime_;
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  DeviceHandle(const DeviceHandle&) = delete;
  DeviceHandle& operator=(const DeviceHandle&) = delete;

  void* get() const { return handle_; }
  std::byte* data() const { return static_cast<std::byte*>(handle_); }

 private:
  void reset() noexcept {
    if (handle_ != nullptr) (runtime_->*kFree)(handle_);
    handle_ = nullptr;
  }

  DeviceRuntime* runtime_ = nullptr;
  void* handle_ = nullptr;
};

using PinnedMemory = DeviceHandle<&DeviceRuntime::free_pinned>;
using DeviceEvent = DeviceHandle<&DeviceRuntime::free_event>;
using DeviceStream = DeviceHandle<&DeviceRuntime::free_stream>;

}  // namespace velora
