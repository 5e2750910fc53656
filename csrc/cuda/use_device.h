#pragma once

namespace velora::cuda {

/// Makes a device the calling thread's for a while, and then the context current again that was
/// before, or none.
///
/// The context is restored through the driver. cudaGetDevice() answers 0 in a thread without a
/// context, and cudaSetDevice(0) would then make one on GPU 0: in every process of a node,
/// whichever GPU it works on, some hundred megabytes of it.
///
/// `Api` has current_context(), device_of_context() of a current one, set_context(context), which
/// does not throw, and set_device(device). It is not kept.
template <typename Api>
class UseDevice {
 public:
  UseDevice(const Api& api, int device) : api_(api), before_(api.current_context()) {
    // Any context of the device serves: a green one is the caller's choice.
    if (before_ != nullptr && api.device_of_context() == device) return;
    api.set_device(device);
    changed_ = true;
  }
  ~UseDevice() {
    if (changed_) api_.set_context(before_);
  }
  UseDevice(const UseDevice&) = delete;
  UseDevice& operator=(const UseDevice&) = delete;

 private:
  const Api& api_;
  void* before_;
  bool changed_ = false;
};

}  // namespace velora::cuda
