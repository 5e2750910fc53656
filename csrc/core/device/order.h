#pragma once

#include "core/device/runtime.h"

namespace velora {

/// Lets what is queued on one device come one after the other, on any streams,
/// and also when a captured graph runs some of it again. The host never waits but in drain().
///
/// A graph waits, whenever it runs, for what was queued until then, and what is queued later waits
/// for it. It waits for other graphs, too, where the runtime has that; where not, all graphs with
/// draws of one buffer have to run on one stream.
class DeviceOrder {
 public:
  explicit DeviceOrder(DeviceRuntime& runtime)
      : runtime_(runtime),
        done_(runtime, runtime.create_event()),
        run_(runtime, runtime.create_event()) {}

  /// Orders later work on `stream` after all earlier work.
  void begin(void* stream) {
    if (has_work_ && stream != last_stream_) runtime_.wait(done_.get(), stream);
    if (captured_) runtime_.wait(run_.get(), stream);
  }
  void end(void* stream) {
    runtime_.record(done_.get(), stream);
    last_stream_ = stream;
    has_work_ = true;
  }

  /// The same around what is captured on `stream`.
  void begin_capture(void* stream) {
    captured_ = true;
    runtime_.wait_when_run(done_.get(), stream);
    if (runtime_.graphs_wait_for_graphs()) runtime_.wait_when_run(run_.get(), stream);
  }
  void end_capture(void* stream) { runtime_.record_when_run(run_.get(), stream); }
  /// Whether anything was captured, and so may run at any time.
  bool captured() const { return captured_; }

  /// A stream that is never captured.
  void* own_stream() {
    if (own_stream_.get() == nullptr) {
      own_stream_ = DeviceStream(runtime_, runtime_.create_stream());
    }
    return own_stream_.get();
  }

  /// Waits for all of it.
  void drain() {
    if (has_work_) runtime_.synchronize_event(done_.get());
    if (captured_) runtime_.synchronize_event(run_.get());
  }

 private:
  DeviceRuntime& runtime_;
  DeviceEvent done_;  // passed when all that was queued is done
  DeviceEvent run_;   // passed when all that graphs were asked for is done
  DeviceStream own_stream_;
  void* last_stream_ = nullptr;
  bool has_work_ = false;
  bool captured_ = false;
};

}  // namespace velora
