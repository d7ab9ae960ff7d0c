#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "signals.h"

namespace emu {

using Clock = std::chrono::steady_clock;

// One call of cudaEventRecord. The event may be recorded again while somebody still waits for this one.
struct Record {
  Stream* stream;
  bool done = false;
  Clock::time_point time;
};

struct Event {
  std::shared_ptr<Record> last;
};

struct Work {
  enum Kind : uint8_t { call, record, wait, hang } kind;
  std::function<void()> run;        // call: a kernel or a copy
  std::shared_ptr<Record> record_;  // record, wait
};

struct Stream {
  std::deque<Work> queue;
  int running = 0;  // pieces of work that have left the queue and are not done
  bool idle() const { return queue.empty() && running == 0; }
};

namespace {

constexpr size_t longest_queue = 1024;

// `running` is held while kernels and copies run: one at a time, on whichever thread asked. `state` protects all that
// follows. Nothing of it is ever destroyed: threads may still use the device while the process ends.
std::mutex &running = *new std::mutex, &state = *new std::mutex;
auto& released = *new std::condition_variable;
Stream& default_stream = *new Stream;
auto& streams = *new std::list<Stream*>{&default_stream};
using Blocks = std::map<const char*, size_t>;
Blocks &device_blocks = *new Blocks, &pinned_blocks = *new Blocks;
size_t memory_used = 0;
cudaError_t sticky = cudaSuccess;
std::string& fault_text = *new std::string;
auto& error_texts = *new std::list<std::string>;  // what cudaGetErrorString returned stays valid
uint64_t resets = 0;
unsigned coin = 1;

size_t bytes_from_environment(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text ? size_t(std::strtoull(text, nullptr, 10)) : otherwise;
}

struct Plan {
  int64_t calls = 0, fail_at = -1, launches = 0, hang_at = -1;
  cudaError_t error = cudaSuccess;
  size_t memory_limit = bytes_from_environment("GALAGO_EMU_MEMORY", size_t(4) << 30);
  Plan() {
    long long at;
    int code;
    if (const char* text = std::getenv("GALAGO_EMU_FAIL_CALL"))
      if (std::sscanf(text, "%lld:%d", &at, &code) == 2) fail_at = at, error = cudaError_t(code);
    if (const char* text = std::getenv("GALAGO_EMU_HANG_LAUNCH")) hang_at = std::atoll(text);
  }
} plan;

thread_local cudaError_t last_error = cudaSuccess;

bool stays(cudaError_t error) {  // CUDA: the context is lost
  return error == cudaErrorECCUncorrectable || (error >= cudaErrorIllegalAddress && error != cudaErrorLaunchOutOfResources);
}

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

// Every runtime call begins with this: counts, and returns the error that stays or that was planned for it. `state` is held.
cudaError_t begin_call() {
  if (++plan.calls == plan.fail_at) {
    if (stays(plan.error) && sticky == cudaSuccess) sticky = plan.error, fault_text.clear();
    return report(plan.error);
  }
  return report(sticky);
}

#define BEGIN_CALL()                        \
  std::unique_lock<std::mutex> lock(state); \
  if (const cudaError_t error = begin_call()) return error

// Those at which the host waits for the device, or the device for the host. A step that is the same as the one before makes none of them:
// tests forbid them for a while.
bool waits_forbidden() { return std::getenv("GALAGO_EMU_FORBID_WAITS") != nullptr; }

#define BEGIN_WAITING_CALL() \
  BEGIN_CALL();              \
  if (waits_forbidden()) return report(cudaErrorNotPermitted)

// ---- running what was enqueued

// The right to run kernels and copies. `state` is given up while another thread has it.
class Turn {
 public:
  explicit Turn(std::unique_lock<std::mutex>& lock) : held_(running, std::defer_lock) {
    lock.unlock();
    held_.lock();
    lock.lock();
  }

 private:
  std::unique_lock<std::mutex> held_;
  SignalGuard guard_;
};

bool known(Stream* stream) { return std::find(streams.begin(), streams.end(), stream) != streams.end(); }
Stream* resolve(cudaStream_t stream) { return stream ? stream : &default_stream; }

// Runs the stream's work until `until` is done, or all of it. The caller has the turn and `lock`, which is given up while work runs.
// False: the next launch never completes.
bool drain(Stream* stream, const std::shared_ptr<Record>& until, std::unique_lock<std::mutex>& lock) {
  while (!(until && until->done) && known(stream) && !stream->queue.empty()) {
    if (stream->queue.front().kind == Work::hang) return false;
    Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->running++;
    bool complete = true;
    switch (work.kind) {
      case Work::record:
        work.record_->done = true;
        work.record_->time = Clock::now();
        break;
      case Work::wait: complete = work.record_->done || drain(work.record_->stream, work.record_, lock); break;
      default:
        if (sticky != cudaSuccess) break;  // the context is lost: nothing runs any more
        lock.unlock();
        work.run();
        lock.lock();
    }
    stream->running--;
    if (complete) continue;
    stream->queue.push_front(std::move(work));
    return false;
  }
  return true;
}

bool drain_all(std::unique_lock<std::mutex>& lock, Stream* but = nullptr) {
  bool complete = true;
  for (Stream* stream : std::vector<Stream*>(streams.begin(), streams.end()))
    if (stream != but && known(stream)) complete &= drain(stream, nullptr, lock);
  return complete;
}

// Whether a call that found a launch that never completes waits for it (until reset()) or says so.
enum class Patience { wait, look };

// Runs what the caller waits for: a record, a stream, or (null) everything. First, perhaps, the streams that nobody asked for.
bool run_until(Stream* stream, const std::shared_ptr<Record>& until, Patience patience, std::unique_lock<std::mutex>& lock) {
  for (;;) {
    if (until ? until->done : stream && stream->idle()) return true;
    {
      const Turn turn(lock);
      coin = coin * 1664525u + 1013904223u;
      if (order() == Order::backward || (order() == Order::shuffled && coin >> 31)) drain_all(lock, stream);
      if (stream ? drain(stream, until, lock) : drain_all(lock)) return true;
    }
    if (patience == Patience::look) return false;
    const uint64_t before = resets;
    released.wait(lock, [&] { return resets != before; });
  }
}

void enqueue(Stream* stream, Work work, std::unique_lock<std::mutex>& lock) {
  stream->queue.push_back(std::move(work));
  if (stream->queue.size() > longest_queue) run_until(stream, nullptr, Patience::look, lock);
}

// ---- memory

// Whether [pointer, pointer + bytes) lies in one block.
bool within(const Blocks& blocks, const void* pointer, size_t bytes) {
  const char* at = static_cast<const char*>(pointer);
  auto block = blocks.upper_bound(at);
  if (block == blocks.begin()) return false;
  --block;
  return at + bytes <= block->first + block->second;
}
// Whether any byte of it belongs to the device: then all of it must lie in one block.
bool touches(const Blocks& blocks, const void* pointer) {
  auto block = blocks.upper_bound(static_cast<const char*>(pointer));
  if (block == blocks.begin()) return false;
  --block;
  return static_cast<const char*>(pointer) < block->first + block->second;
}

bool fits(const void* pointer, size_t bytes, bool on_device) {
  return on_device ? within(device_blocks, pointer, bytes) : !touches(device_blocks, pointer);
}

void* take(Blocks& blocks, size_t bytes) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + 511) / 512 * 512;
  void* block = std::aligned_alloc(512, rounded);
  if (!block) return nullptr;
  std::memset(block, 0xff, rounded);  // NaN in every float type
  blocks.emplace(static_cast<const char*>(block), bytes);
  return block;
}

}  // namespace

// ---- launch and controls

static cudaError_t launch_error(dim3 grid, dim3 block, size_t shared, std::string& text) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  char message[160];
  if (threads == 0 || threads > max_block_threads || block.z > 64)
    std::snprintf(message, sizeof message, "a block of (%u, %u, %u) threads, expected 1 to 1024", block.x, block.y, block.z);
  else if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    std::snprintf(message, sizeof message, "a grid of (%u, %u, %u) blocks, expected at most (2147483647, 65535, 65535)", grid.x, grid.y,
                  grid.z);
  else if (shared > max_shared_bytes)
    std::snprintf(message, sizeof message, "%zu bytes of shared memory, expected at most %zu", shared, max_shared_bytes);
  else
    return cudaSuccess;
  text = message;
  return shared > max_shared_bytes ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration;
}

void launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared, const void* kernel, std::function<void()> call) {
  std::unique_lock<std::mutex> lock(state);
  if (begin_call() != cudaSuccess) return;
  std::string text;
  if (const cudaError_t error = launch_error(grid, block, shared, text)) {
    fault_text = text + "; in " + symbol_name(kernel);
    report(error);
    return;
  }
  if (++plan.launches == plan.hang_at) return enqueue(resolve(stream), {Work::hang, {}, {}}, lock);
  auto run = [grid, block, shared, kernel, call = std::move(call)] {
    Outcome outcome = run_launch({grid, block, shared, kernel, call});
    if (outcome.fault == Fault::none) return;
    std::unique_lock<std::mutex> lock(state);
    fault_text = std::move(outcome.message);
    sticky = cudaError_t(outcome.fault);
  };
  enqueue(resolve(stream), {Work::call, std::move(run), {}}, lock);
}

void fail_call(int64_t k, cudaError_t error) {
  std::unique_lock<std::mutex> lock(state);
  plan.fail_at = plan.calls + k;
  plan.error = error;
}

int64_t runtime_calls() {
  std::unique_lock<std::mutex> lock(state);
  return plan.calls;
}

void hang_launch(int64_t k) {
  std::unique_lock<std::mutex> lock(state);
  plan.hang_at = plan.launches + k;
}

void set_memory_limit(size_t bytes) {
  std::unique_lock<std::mutex> lock(state);
  plan.memory_limit = bytes;
}

void reset() {
  std::unique_lock<std::mutex> lock(state);
  for (Stream* stream : streams) {
    for (Work& work : stream->queue)
      if (work.kind == Work::record) work.record_->done = true;
    stream->queue.clear();
  }
  sticky = cudaSuccess;
  last_error = cudaSuccess;
  fault_text.clear();
  plan.fail_at = plan.hang_at = -1;
  resets++;
  released.notify_all();
}

const char* last_fault() {
  std::unique_lock<std::mutex> lock(state);
  return error_texts.emplace_back(fault_text).c_str();
}

}  // namespace emu

using namespace emu;

// ---- devices

cudaError_t cudaGetDeviceCount(int* count) {
  BEGIN_CALL();
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  BEGIN_CALL();
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  BEGIN_CALL();
  return report(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

static cudaDeviceProp device_properties() {
  cudaDeviceProp p{};
  std::strcpy(p.name, "cuda-emu");
  p.totalGlobalMem = plan.memory_limit;
  p.sharedMemPerBlock = max_static_shared_bytes;
  p.sharedMemPerBlockOptin = max_shared_bytes;
  p.sharedMemPerMultiprocessor = 228 * 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = warp_width;
  p.maxThreadsPerBlock = max_block_threads;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024, p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff, p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.major = 9;
  p.minor = 0;
  p.multiProcessorCount = 2;
  p.l2CacheSize = 1 << 20;
  p.memoryBusWidth = 64;
  p.asyncEngineCount = 1;
  p.concurrentKernels = p.unifiedAddressing = 1;
  return p;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  BEGIN_CALL();
  if (device != 0) return report(cudaErrorInvalidDevice);
  *properties = device_properties();
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  BEGIN_CALL();
  if (device != 0) return report(cudaErrorInvalidDevice);
  const cudaDeviceProp p = device_properties();
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: return *value = p.maxThreadsPerBlock, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: return *value = int(p.sharedMemPerBlock), cudaSuccess;
    case cudaDevAttrWarpSize: return *value = p.warpSize, cudaSuccess;
    case cudaDevAttrMultiProcessorCount: return *value = p.multiProcessorCount, cudaSuccess;
    case cudaDevAttrL2CacheSize: return *value = p.l2CacheSize, cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: return *value = p.major, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: return *value = p.minor, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return *value = int(p.sharedMemPerMultiprocessor), cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return *value = int(p.sharedMemPerBlockOptin), cudaSuccess;
  }
  return report(cudaErrorInvalidValue);
}

cudaError_t cudaDriverGetVersion(int* version) {
  BEGIN_CALL();
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

// ---- errors

cudaError_t cudaPeekAtLastError() {
  std::unique_lock<std::mutex> lock(state);
  return sticky != cudaSuccess ? sticky : last_error;
}

cudaError_t cudaGetLastError() {
  std::unique_lock<std::mutex> lock(state);
  const cudaError_t error = sticky != cudaSuccess ? sticky : last_error;
  last_error = cudaSuccess;
  return error;
}

static std::pair<const char*, const char*> name_and_text(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return {"cudaSuccess", "no error"};
    case cudaErrorInvalidValue: return {"cudaErrorInvalidValue", "invalid argument"};
    case cudaErrorMemoryAllocation: return {"cudaErrorMemoryAllocation", "out of memory"};
    case cudaErrorInitializationError: return {"cudaErrorInitializationError", "initialization error"};
    case cudaErrorInvalidConfiguration: return {"cudaErrorInvalidConfiguration", "invalid configuration argument"};
    case cudaErrorInsufficientDriver:
      return {"cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"};
    case cudaErrorNoDevice: return {"cudaErrorNoDevice", "no CUDA-capable device is detected"};
    case cudaErrorInvalidDevice: return {"cudaErrorInvalidDevice", "invalid device ordinal"};
    case cudaErrorNoKernelImageForDevice:
      return {"cudaErrorNoKernelImageForDevice", "no kernel image is available for execution on the device"};
    case cudaErrorECCUncorrectable: return {"cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"};
    case cudaErrorInvalidResourceHandle: return {"cudaErrorInvalidResourceHandle", "invalid resource handle"};
    case cudaErrorNotReady: return {"cudaErrorNotReady", "device not ready"};
    case cudaErrorIllegalAddress: return {"cudaErrorIllegalAddress", "an illegal memory access was encountered"};
    case cudaErrorLaunchOutOfResources: return {"cudaErrorLaunchOutOfResources", "too many resources requested for launch"};
    case cudaErrorLaunchTimeout: return {"cudaErrorLaunchTimeout", "the launch timed out and was terminated"};
    case cudaErrorMisalignedAddress: return {"cudaErrorMisalignedAddress", "misaligned address"};
    case cudaErrorLaunchFailure: return {"cudaErrorLaunchFailure", "unspecified launch failure"};
    case cudaErrorNotPermitted: return {"cudaErrorNotPermitted", "operation not permitted"};
    case cudaErrorUnknown: break;
  }
  return {"cudaErrorUnknown", "unknown error"};
}

const char* cudaGetErrorName(cudaError_t error) { return name_and_text(error).first; }

const char* cudaGetErrorString(cudaError_t error) {
  std::unique_lock<std::mutex> lock(state);
  const char* text = name_and_text(error).second;
  const bool explained =
      !fault_text.empty() && (error == sticky || error == cudaErrorInvalidConfiguration || error == cudaErrorInvalidValue);
  return explained ? error_texts.emplace_back(std::string(text) + ": " + fault_text).c_str() : text;
}

// ---- memory

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  BEGIN_WAITING_CALL();
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (bytes > plan.memory_limit - std::min(plan.memory_limit, memory_used)) return report(cudaErrorMemoryAllocation);
  *pointer = take(device_blocks, bytes);
  if (!*pointer) return report(cudaErrorMemoryAllocation);
  memory_used += bytes;
  return cudaSuccess;
}

static cudaError_t give_back(Blocks& blocks, void* pointer, bool on_device, std::unique_lock<std::mutex>& lock) {
  if (!pointer) return cudaSuccess;
  if (!blocks.contains(static_cast<const char*>(pointer))) return report(cudaErrorInvalidValue);
  run_until(nullptr, nullptr, Patience::look, lock);
  const auto block = blocks.find(static_cast<const char*>(pointer));
  if (block == blocks.end()) return report(cudaErrorInvalidValue);
  if (on_device) memory_used -= block->second;
  blocks.erase(block);
  std::free(pointer);
  return report(sticky);
}

cudaError_t cudaFree(void* pointer) {
  BEGIN_WAITING_CALL();
  return give_back(device_blocks, pointer, true, lock);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  BEGIN_WAITING_CALL();
  *total = plan.memory_limit;
  *free = plan.memory_limit - std::min(plan.memory_limit, memory_used);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  BEGIN_WAITING_CALL();
  *pointer = bytes ? take(pinned_blocks, bytes) : nullptr;
  return bytes && !*pointer ? report(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault); }

cudaError_t cudaFreeHost(void* pointer) {
  BEGIN_WAITING_CALL();
  return give_back(pinned_blocks, pointer, false, lock);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  BEGIN_CALL();
  if (bytes == 0) return cudaSuccess;
  const bool to_device =
      kind == cudaMemcpyDefault ? touches(device_blocks, to) : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device =
      kind == cudaMemcpyDefault ? touches(device_blocks, from) : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (!known(resolve(stream))) return report(cudaErrorInvalidResourceHandle);
  if (!fits(to, bytes, to_device) || !fits(from, bytes, from_device)) return report(cudaErrorInvalidValue);
  // As on a device: what comes from pageable memory is staged at once, what goes there is waited for.
  const bool pageable_source = !from_device && !within(pinned_blocks, from, bytes);
  const bool pageable_target = !to_device && !within(pinned_blocks, to, bytes);
  if ((pageable_source || pageable_target) && waits_forbidden()) return report(cudaErrorNotPermitted);
  std::function<void()> run;
  if (pageable_source) {
    const char* source = static_cast<const char*>(from);
    run = [to, staged = std::vector<char>(source, source + bytes)] { std::memcpy(to, staged.data(), staged.size()); };
  } else {
    run = [to, from, bytes] { std::memmove(to, from, bytes); };
  }
  enqueue(resolve(stream), {Work::call, std::move(run), {}}, lock);
  if (pageable_target) run_until(resolve(stream), nullptr, Patience::wait, lock);
  return report(sticky);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  BEGIN_CALL();
  if (bytes == 0) return cudaSuccess;
  if (!known(resolve(stream))) return report(cudaErrorInvalidResourceHandle);
  if (!fits(to, bytes, true)) return report(cudaErrorInvalidValue);
  enqueue(resolve(stream), {Work::call, [=] { std::memset(to, value, bytes); }, {}}, lock);
  return report(sticky);
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}

// ---- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  BEGIN_WAITING_CALL();
  streams.push_back(*stream = new Stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  BEGIN_WAITING_CALL();
  if (!stream || !known(stream)) return report(cudaErrorInvalidResourceHandle);
  run_until(stream, nullptr, Patience::look, lock);
  for (Work& work : stream->queue)
    if (work.kind == Work::record) work.record_->done = true;
  streams.remove(stream);
  delete stream;
  return report(sticky);
}

static cudaError_t wait_for_stream(Stream* stream, Patience patience, std::unique_lock<std::mutex>& lock) {
  if (!known(stream)) return report(cudaErrorInvalidResourceHandle);
  const bool done = run_until(stream, nullptr, patience, lock);
  return report(sticky != cudaSuccess ? sticky : done ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  BEGIN_WAITING_CALL();
  return wait_for_stream(resolve(stream), Patience::wait, lock);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  BEGIN_CALL();
  return wait_for_stream(resolve(stream), Patience::look, lock);
}

cudaError_t cudaDeviceSynchronize() {
  BEGIN_WAITING_CALL();
  run_until(nullptr, nullptr, Patience::wait, lock);
  return report(sticky);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  BEGIN_CALL();
  if (!event || !known(resolve(stream))) return report(cudaErrorInvalidResourceHandle);
  if (event->last && !event->last->done) enqueue(resolve(stream), {Work::wait, {}, event->last}, lock);
  return report(sticky);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  BEGIN_CALL();
  *event = new Event;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  BEGIN_CALL();
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  BEGIN_CALL();
  if (!event || !known(resolve(stream))) return report(cudaErrorInvalidResourceHandle);
  event->last = std::make_shared<Record>(Record{resolve(stream), false, {}});
  enqueue(resolve(stream), {Work::record, {}, event->last}, lock);
  return report(sticky);
}

static cudaError_t wait_for_event(Event* event, Patience patience, std::unique_lock<std::mutex>& lock) {
  if (!event) return report(cudaErrorInvalidResourceHandle);
  const std::shared_ptr<Record> record = event->last;
  const bool done = !record || run_until(record->stream, record, patience, lock);
  return report(sticky != cudaSuccess ? sticky : done ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  BEGIN_CALL();
  return wait_for_event(event, Patience::wait, lock);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  BEGIN_CALL();
  return wait_for_event(event, Patience::look, lock);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  BEGIN_CALL();
  if (!start || !end || !start->last || !end->last) return report(cudaErrorInvalidResourceHandle);
  if (!start->last->done || !end->last->done) return report(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->last->time - start->last->time).count();
  return cudaSuccess;
}

// ---- kernels

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
  BEGIN_WAITING_CALL();
  const bool fine = attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || size_t(value) <= max_shared_bytes;
  return report(fine ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  BEGIN_CALL();
  *attributes = {};
  attributes->maxThreadsPerBlock = max_block_threads;
  attributes->maxDynamicSharedSizeBytes = int(max_shared_bytes);
  attributes->binaryVersion = attributes->ptxVersion = 90;
  return cudaSuccess;
}
