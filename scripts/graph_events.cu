// Captured draws rely on this: may a CUDA graph wait for an external event that it records itself?
//
// DeviceOrder has each graph wait for the event `run`, and record it at its end, so that graphs
// come one after the other on whatever streams they run. The documentation does not say whether
// such a wait is for the record of an earlier run, as it must be, or for that of its own, which
// would never come. Each case runs a thousand times in a process of its own, which is ended when it
// hangs.
//
// Exit code: 0 where graphs wait for graphs; 3 where they do not, and what velora does instead with
// VELORA_GRAPHS_WAIT=OFF works; 1 for everything else.

#include <cuda_runtime.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

namespace {

constexpr int kRuns = 1000;
constexpr auto kDeadline = std::chrono::seconds(6);
constexpr long long kCycles = 20'000;  // of a step: about 10 us

enum Outcome { kOrdered = 0, kUnordered = 3, kHangs = 4, kFails = 5 };

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(status));
  std::fflush(stdout);
  _exit(kFails);
}
#define CHECK(call) check((call), #call)

/// Counts up, slowly: of two at once, one count is lost.
__global__ void step(long long* count) {
  const long long before = *static_cast<volatile long long*>(count);
  const long long start = clock64();
  while (clock64() - start < kCycles) {
  }
  *static_cast<volatile long long*>(count) = before + 1;
}

/// One buffer: a count on the device, what was queued for it, and what graphs do with it.
class Order {
 public:
  explicit Order(bool graphs_wait) : graphs_wait_(graphs_wait) {
    CHECK(cudaMalloc(&count_, sizeof(long long)));
    CHECK(cudaMemset(count_, 0, sizeof(long long)));
    CHECK(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&run_, cudaEventDisableTiming));
    for (cudaStream_t& stream : streams) {
      CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    CHECK(cudaEventRecord(done_, streams[0]));
    CHECK(cudaDeviceSynchronize());
  }

  void queue(cudaStream_t stream) {
    CHECK(cudaStreamWaitEvent(stream, done_, 0));
    CHECK(cudaStreamWaitEvent(stream, run_, 0));
    step<<<1, 1, 0, stream>>>(count_);
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(done_, stream));
    ++steps;
  }
  /// A graph of so many draws.
  cudaGraphExec_t capture(int draws) {
    const cudaStream_t stream = streams[0];
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < draws; ++i) {
      CHECK(cudaStreamWaitEvent(stream, done_, cudaEventWaitExternal));
      if (graphs_wait_) CHECK(cudaStreamWaitEvent(stream, run_, cudaEventWaitExternal));
      step<<<1, 1, 0, stream>>>(count_);
      CHECK(cudaGetLastError());
      CHECK(cudaEventRecordWithFlags(run_, stream, cudaEventRecordExternal));
    }
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t exec = nullptr;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    return exec;
  }
  void launch(cudaGraphExec_t exec, int draws, cudaStream_t stream) {
    CHECK(cudaGraphLaunch(exec, stream));
    steps += draws;
  }

  Outcome outcome() {
    const auto end = std::chrono::steady_clock::now() + kDeadline;
    for (const cudaStream_t stream : streams) {
      cudaError_t status = cudaErrorNotReady;
      while ((status = cudaStreamQuery(stream)) == cudaErrorNotReady) {
        if (std::chrono::steady_clock::now() > end) return kHangs;
        const timespec pause = {.tv_sec = 0, .tv_nsec = 1'000'000};
        nanosleep(&pause, nullptr);
      }
      check(status, "cudaStreamQuery");
    }
    long long found = 0;
    CHECK(cudaMemcpy(&found, count_, sizeof(found), cudaMemcpyDeviceToHost));
    if (found == steps) return kOrdered;
    std::printf("%lld of %lld steps counted: ", found, steps);
    return kUnordered;
  }

  cudaStream_t streams[3];
  long long steps = 0;

 private:
  bool graphs_wait_;
  long long* count_ = nullptr;
  cudaEvent_t done_ = nullptr;
  cudaEvent_t run_ = nullptr;
};

/// Runs graphs of `draws` in turns, each on the next of `num_streams`, with other work between.
Outcome run_case(int graphs, int draws, int num_streams, bool graphs_wait) {
  Order order(graphs_wait);
  std::vector<cudaGraphExec_t> captured;
  for (int g = 0; g < graphs; ++g) captured.push_back(order.capture(draws));
  for (int run = 0; run < kRuns; ++run) {
    order.launch(captured[run % graphs], draws, order.streams[run % num_streams]);
    if (run % 3 == 0) order.queue(order.streams[2]);
  }
  return order.outcome();
}

struct Case {
  const char* name;
  int graphs;
  int draws;
  int streams;
  bool graphs_wait;
};
constexpr Case kCases[] = {
    {"one graph on two streams", 1, 1, 2, true},
    {"two graphs on two streams", 2, 1, 2, true},
    {"two draws in one graph, on two streams", 1, 2, 2, true},
    {"without waits between graphs: two graphs on one stream", 2, 1, 1, false},
};

/// In a process of its own: one whose device hangs cannot end by itself.
Outcome outcome_of(const Case& one) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const Outcome outcome = run_case(one.graphs, one.draws, one.streams, one.graphs_wait);
    std::fflush(stdout);
    _exit(outcome);
  }
  for (int tenths = 0; tenths < 80; ++tenths) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) {
      return WIFEXITED(status) ? static_cast<Outcome>(WEXITSTATUS(status)) : kFails;
    }
    usleep(100'000);
  }
  kill(child, SIGKILL);
  return kHangs;
}

const char* text_of(Outcome outcome) {
  switch (outcome) {
    case kOrdered:
      return "in order";
    case kUnordered:
      return "NOT IN ORDER";
    case kHangs:
      return "HANGS";
    default:
      return "FAILS";
  }
}

}  // namespace

int main() {
  bool waits = true;
  bool works_without = true;
  for (const Case& one : kCases) {
    const Outcome outcome = outcome_of(one);
    std::printf("%s: %s\n", one.name, text_of(outcome));
    if (outcome != kOrdered) (one.graphs_wait ? waits : works_without) = false;
  }
  if (!works_without) return 1;
  return waits ? 0 : 3;
}
