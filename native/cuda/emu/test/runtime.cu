// The runtime API: streams that run late, events that order them, memory limits, planned errors.
#include <atomic>
#include <thread>

#include "cases.h"

namespace galago::cuda {

__global__ void add_kernel(const float* x, float* y, int n) {
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) y[i] = x[i] + 1;
}

__global__ void broken_kernel() { emu::fault("planted"); }

// Two streams with their own memory, page-locked memory for both ends.
struct Streams {
  static constexpr int count = 100;
  static constexpr size_t bytes = count * sizeof(float);
  cudaStream_t copies, compute;
  cudaEvent_t arrived;
  float *in, *out, *x, *y;
  Streams() {
    CUDA_CHECK(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
    CUDA_CHECK(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&arrived, cudaEventDisableTiming));
    for (float** host : {&in, &out}) CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(host), bytes));
    for (float** device : {&x, &y}) CUDA_CHECK(cudaMalloc(device, bytes));
    for (int i = 0; i < count; i++) in[i] = float(i);
  }
  ~Streams() {
    for (float* host : {in, out}) (void)cudaFreeHost(host);
    for (float* device : {x, y}) (void)cudaFree(device);
    (void)cudaEventDestroy(arrived);
    (void)cudaStreamDestroy(copies);
    (void)cudaStreamDestroy(compute);
  }
  void add() {
    const auto* from = x;
    auto* to = y;
    emu::launch(compute, 1, 32, 0, nullptr, [=] { add_kernel(from, to, count); });
  }
  std::string result() {
    CUDA_CHECK(cudaMemcpyAsync(out, y, bytes, cudaMemcpyDeviceToHost, compute));
    CUDA_CHECK(cudaStreamSynchronize(compute));
    for (int i = 0; i < count; i++)
      if (out[i] != float(i) + 1) return "wrong";
    return "right";
  }
};

template <bool WAIT>
static std::string two_streams() {
  Streams s;
  CUDA_CHECK(cudaMemcpyAsync(s.x, s.in, s.bytes, cudaMemcpyHostToDevice, s.copies));
  CUDA_CHECK(cudaEventRecord(s.arrived, s.copies));
  if (WAIT) CUDA_CHECK(cudaStreamWaitEvent(s.compute, s.arrived));
  s.add();
  return s.result();
}

template <bool WAIT>
static std::string reused_staging() {
  Streams s;
  CUDA_CHECK(cudaMemcpyAsync(s.x, s.in, s.bytes, cudaMemcpyHostToDevice, s.compute));
  if (WAIT) CUDA_CHECK(cudaStreamSynchronize(s.compute));
  for (int i = 0; i < s.count; i++) s.in[i] = -1;
  s.add();
  return s.result();
}

// One thread enqueues, another waits for events, as the executor and its reader do.
static std::string two_threads() {
  Streams s;
  std::atomic<cudaEvent_t> sent = nullptr;
  std::atomic<bool> all_right = true;
  std::thread reader([&] {
    for (int round = 0; round < 200; round++) {
      cudaEvent_t event;
      while (!(event = sent.exchange(nullptr))) std::this_thread::yield();
      if (cudaEventSynchronize(event) != cudaSuccess || s.out[round % s.count] != float(round) + 1) all_right = false;
      (void)cudaEventDestroy(event);
    }
  });
  for (int round = 0; round < 200; round++) {
    while (sent.load()) std::this_thread::yield();
    CUDA_CHECK(cudaStreamSynchronize(s.compute));
    s.in[round % s.count] = float(round);
    CUDA_CHECK(cudaMemcpyAsync(s.x, s.in, s.bytes, cudaMemcpyHostToDevice, s.compute));
    s.add();
    CUDA_CHECK(cudaMemcpyAsync(s.out, s.y, s.bytes, cudaMemcpyDeviceToHost, s.compute));
    cudaEvent_t event;
    CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventRecord(event, s.compute));
    sent = event;
    for (int i = 0; i < 3; i++) (void)cudaStreamQuery(s.compute);
    while (sent.load()) std::this_thread::yield();
  }
  reader.join();
  return all_right ? "right" : "wrong";
}

static std::string memory_limit() {
  size_t free_before, total, free_now;
  CUDA_CHECK(cudaMemGetInfo(&free_before, &total));
  emu::set_memory_limit(total - free_before + 1000);
  void *a = nullptr, *b = nullptr;
  const bool first = cudaMalloc(&a, 600) == cudaSuccess;
  const bool second = cudaMalloc(&b, 600) == cudaErrorMemoryAllocation && !b && cudaGetLastError() == cudaErrorMemoryAllocation;
  CUDA_CHECK(cudaMemGetInfo(&free_now, &total));
  CUDA_CHECK(cudaFree(a));
  const bool third = cudaMalloc(&b, 600) == cudaSuccess;
  CUDA_CHECK(cudaFree(b));
  emu::set_memory_limit(size_t(4) << 30);
  return first && second && third && free_now == 400 ? "right" : "wrong";
}

// A fault stays: every call returns it, nothing runs any more, until the process (here: reset) starts afresh.
static std::string sticky_fault() {
  Buffer<float> x(4, [](size_t) { return 1; });
  launch(broken_kernel, 1, 1, 0);
  const bool launched = cudaGetLastError() == cudaSuccess;
  bool stays = cudaStreamSynchronize(stream()) == cudaErrorLaunchFailure;
  stays = stays && cudaGetLastError() == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure;
  void* block;
  stays = stays && cudaMalloc(&block, 16) == cudaErrorLaunchFailure && cudaMemsetAsync(x.device, 0, 4) == cudaErrorLaunchFailure;
  const std::string text = cudaGetErrorString(cudaErrorLaunchFailure);
  emu::reset();
  const bool afresh = x.equals([](size_t) { return 1; });
  return launched && stays && afresh && text.find("planted; in galago::cuda::broken_kernel()") != text.npos ? "right" : "wrong: " + text;
}

static std::string planned_errors() {
  Buffer<float> x(1, [](size_t) { return 1; });
  CUDA_CHECK(cudaStreamSynchronize(stream()));
  emu::fail_call(2, cudaErrorMemoryAllocation);
  bool right = cudaSetDevice(0) == cudaSuccess && cudaSetDevice(0) == cudaErrorMemoryAllocation;
  right = right && cudaSetDevice(0) == cudaSuccess && cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess;
  for (const cudaError_t error : {cudaErrorIllegalAddress, cudaErrorMisalignedAddress, cudaErrorLaunchFailure, cudaErrorECCUncorrectable}) {
    emu::fail_call(1, error);
    emu::launch(stream(), 1, 1, 0, nullptr, [] {});
    right = right && cudaGetLastError() == error && cudaStreamSynchronize(stream()) == error;
    emu::reset();
    right = right && cudaStreamSynchronize(stream()) == cudaSuccess;
  }
  return right ? "right" : "wrong";
}

static std::string hanging_launch() {
  Streams s;
  emu::hang_launch(1);
  s.add();
  CUDA_CHECK(cudaEventRecord(s.arrived, s.compute));
  const bool hangs = cudaStreamQuery(s.compute) == cudaErrorNotReady && cudaEventQuery(s.arrived) == cudaErrorNotReady;
  std::thread waiting([&] { (void)cudaStreamSynchronize(s.compute); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const bool others_run = cudaStreamSynchronize(s.copies) == cudaSuccess;
  emu::reset();
  waiting.join();
  return hangs && others_run ? "right" : "wrong";
}

static std::string wrong_arguments() {
  Streams s;
  float host;
  bool right = cudaMemcpyAsync(s.x, s.in, s.bytes + 1, cudaMemcpyHostToDevice, s.copies) == cudaErrorInvalidValue;
  right = right && cudaMemcpyAsync(s.in, s.x, 4, cudaMemcpyHostToDevice, s.copies) == cudaErrorInvalidValue;
  right = right && cudaMemsetAsync(&host, 0, 4, s.copies) == cudaErrorInvalidValue;
  right = right && cudaFree(s.x + 1) == cudaErrorInvalidValue && cudaSetDevice(1) == cudaErrorInvalidDevice;
  (void)cudaGetLastError();
  return right ? "right" : "wrong";
}

std::vector<Case> runtime_cases() {
  return {{"two streams, ordered", two_streams<true>},
          {"two streams, not ordered", two_streams<false>},
          {"staging waited for", reused_staging<true>},
          {"staging reused too early", reused_staging<false>},
          {"two threads", two_threads},
          {"memory limit", memory_limit},
          {"sticky fault", sticky_fault},
          {"planned errors", planned_errors},
          {"hanging launch", hanging_launch},
          {"wrong arguments", wrong_arguments}};
}

}  // namespace galago::cuda
