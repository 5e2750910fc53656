// The parts of csrc/cuda that need no CUDA: contexts, messages, sizes of grids.

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/cooperative_grid.h"
#include "cuda/unusable.h"
#include "cuda/use_device.h"

namespace velora::cuda {
namespace {

/// A driver with one context a device, which notes what is made.
class FakeDriver {
 public:
  explicit FakeDriver(int current = -1) {
    if (current >= 0) set_device(current);
    made.clear();
  }

  void* current_context() const { return context_; }
  int device_of_context() const {
    if (context_ == nullptr) throw std::logic_error("no context is current");
    return *static_cast<int*>(context_);
  }
  void set_context(void* context) const noexcept { context_ = context; }
  void set_device(int device) const {
    if (device == refused) throw std::runtime_error("refused");
    made.push_back(device);
    context_ = &devices_[device];
  }
  void* context_of(int device) const { return &devices_[device]; }

  int refused = -1;
  mutable std::vector<int> made;

 private:
  mutable int devices_[4] = {0, 1, 2, 3};
  mutable void* context_ = nullptr;
};

TEST(UseDevice, InAThreadWithoutAContextLeavesItWithoutAndMakesNoneOnGpu0) {
  const FakeDriver driver;
  {
    const UseDevice use(driver, 3);
    EXPECT_EQ(driver.device_of_context(), 3);
  }
  EXPECT_EQ(driver.current_context(), nullptr);
  EXPECT_EQ(driver.made, std::vector<int>{3});
}

TEST(UseDevice, OfAnotherDeviceRestoresTheContextThatWasCurrent) {
  const FakeDriver driver(1);
  {
    const UseDevice use(driver, 2);
    EXPECT_EQ(driver.device_of_context(), 2);
  }
  EXPECT_EQ(driver.current_context(), driver.context_of(1));
  EXPECT_EQ(driver.made, std::vector<int>{2});
}

TEST(UseDevice, OfTheCurrentDeviceChangesNothing) {
  const FakeDriver driver;
  int green = 2;  // a context of the device, and not its own
  driver.set_context(&green);
  {
    const UseDevice use(driver, 2);
    EXPECT_EQ(driver.current_context(), &green);
  }
  EXPECT_EQ(driver.current_context(), &green);
  EXPECT_TRUE(driver.made.empty());
}

TEST(UseDevice, WithinAnotherRestoresEachInItsOrder) {
  const FakeDriver driver;
  {
    const UseDevice outer(driver, 1);
    {
      const UseDevice inner(driver, 0);
      EXPECT_EQ(driver.device_of_context(), 0);
    }
    EXPECT_EQ(driver.device_of_context(), 1);
  }
  EXPECT_EQ(driver.current_context(), nullptr);
}

TEST(UseDevice, ThatIsRefusedLeavesTheContextAlone) {
  FakeDriver driver(1);
  driver.refused = 2;
  EXPECT_THROW(UseDevice(driver, 2), std::runtime_error);
  EXPECT_EQ(driver.current_context(), driver.context_of(1));
}

TEST(Unusable, WithoutADriverSaysWhichToInstall) {
  EXPECT_EQ(why_unusable(NoDevices::kInsufficientDriver, "", 0, 13000),
            "no NVIDIA driver was found; install driver 580 or newer");
}

TEST(Unusable, WithAnOlderDriverSaysWhatItIsForAndWhichIsNeeded) {
  EXPECT_EQ(why_unusable(NoDevices::kInsufficientDriver, "", 11040, 12090),
            "the NVIDIA driver is for CUDA 11.4, and this velora was built with CUDA 12.9; install "
            "driver 525 or newer, or build velora with an older CUDA");
  EXPECT_NE(why_unusable(NoDevices::kInsufficientDriver, "", 13000, 14020).find("of CUDA 14.0"),
            std::string::npos);
}

TEST(Unusable, WithoutAGpuSaysWhereToLook) {
  EXPECT_NE(why_unusable(NoDevices::kNone, "", 13000, 13000).find("CUDA_VISIBLE_DEVICES"),
            std::string::npos);
}

TEST(Unusable, InAForkedProcessSaysHowToStartIt) {
  const std::string why = why_unusable(NoDevices::kCannotStart, "x", 13000, 13000);
  EXPECT_NE(why.find("'spawn'"), std::string::npos);
  EXPECT_EQ(why.find("no NVIDIA driver"), std::string::npos);
}

TEST(Unusable, ForAnyOtherReasonSaysWhatCudaSays) {
  EXPECT_EQ(why_unusable(static_cast<NoDevices>(803), "mismatch", 13000, 13000),
            "CUDA does not start: mismatch");
}

TEST(CooperativeGrid, LeavesRoomForOthersAndHasABlock) {
  EXPECT_EQ(cooperative_blocks(528), 264u);
  EXPECT_EQ(cooperative_blocks(1), 1u);
}

constexpr int kDone = 0;
constexpr int kTooLarge = 720;
constexpr int kFailed = 700;

/// The blocks of each launch, where `fitting` fit and all else is answered by `status`.
std::vector<unsigned> launches(unsigned blocks, unsigned fitting, int status, int expected) {
  std::vector<unsigned> tried;
  const int answer = launch_halving(blocks, kTooLarge, [&](unsigned now) {
    tried.push_back(now);
    return now > fitting ? kTooLarge : status;
  });
  EXPECT_EQ(answer, expected);
  return tried;
}

TEST(CooperativeGrid, ThatIsTooLargeIsHalvedUntilItFits) {
  EXPECT_EQ(launches(264, 528, kDone, kDone), (std::vector<unsigned>{264}));
  EXPECT_EQ(launches(264, 100, kDone, kDone), (std::vector<unsigned>{264, 132, 66}));
  EXPECT_EQ(launches(5, 1, kDone, kDone), (std::vector<unsigned>{5, 2, 1}));
}

TEST(CooperativeGrid, ThatNeverFitsOrFailsOtherwiseIsGivenUp) {
  EXPECT_EQ(launches(3, 0, kDone, kTooLarge), (std::vector<unsigned>{3, 1}));
  EXPECT_EQ(launches(8, 8, kFailed, kFailed), (std::vector<unsigned>{8}));
}

}  // namespace
}  // namespace velora::cuda
