#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "device.cuh"

namespace galago::cuda {

#ifdef GALAGO_EMULATED
constexpr DeviceKind kind = DeviceKind::cuda_emu;
#else
constexpr DeviceKind kind = DeviceKind::cuda;
#endif

// The driver of CUDA 13, which these kernels are built with.
constexpr int oldest_driver = 13000;
constexpr const char* oldest_driver_name = "r580";
constexpr int oldest_compute = 80;

static thread_local DeviceBackend* current_backend = nullptr;

DeviceBackend& current() {
  CHECK(current_backend, "a CUDA call on a thread without a device");
  return *current_backend;
}

OnDevice::OnDevice(DeviceBackend& backend) : before_(current_backend) {
  if (before_ != &backend) (void)cudaSetDevice(backend.ordinal);  // a device that is lost says so at the next wait
  current_backend = &backend;
}

OnDevice::~OnDevice() {
  if (before_ && before_ != current_backend) (void)cudaSetDevice(before_->ordinal);
  current_backend = before_;
}

void cuda_failed(cudaError_t status, const char* statement, const char* file, int line) {
  const char* const slash = std::strrchr(file, '/');
  const std::string message = (current_backend ? name(current_backend->device) : std::string("cuda")) + ": " + cudaGetErrorString(status) +
                              " (" + cudaGetErrorName(status) + ", from " + statement + " in " + (slash ? slash + 1 : file) + ":" +
                              std::to_string(line) + ")";
  if (status != cudaErrorMemoryAllocation || !current_backend) throw Error("DEVICE_LOST", message);
  (void)cudaGetLastError();  // no later launch is to find it
  throw OutOfMemory("DEVICE_MEMORY", message, 0, current_backend->memory());
}

// ---- what launchers ask for (launch.cuh)

cudaStream_t stream() { return current().stream; }
int multiprocessors() { return current().multiprocessors; }
int shared_memory_limit() { return current().shared_memory_limit; }

unsigned grid_of(int64_t blocks) {
  const int limit = current().grid_limit;
  return unsigned(std::min<int64_t>(blocks, limit > 0 ? limit : int64_t(current().multiprocessors) * 16));
}

ScratchBlock::ScratchBlock(size_t bytes) : block_(current().allocate(bytes)), bytes_(bytes) {}
ScratchBlock::~ScratchBlock() { current().deallocate(block_, bytes_); }

void allow_shared_memory(const void* kernel, size_t bytes) { current().allow_shared_memory(kernel, bytes); }

void upload(void* to, const void* from, size_t bytes) { current().write(to, from, bytes); }

IndexReport index_report(const char* op, const char* argument, int64_t bound) { return {current().word, op, argument, bound}; }

// ---- events and page-locked memory

cudaEvent_t EventPool::take() {
  {
    std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      const cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  cudaEvent_t event;
  // A thread that waits sleeps: the event loop and the loader need the processor more than a read needs the last microseconds.
  CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync));
  return event;
}

void EventPool::give(cudaEvent_t event) {
  std::lock_guard lock(mutex_);
  free_.push_back(event);
}

static void* page_locked(size_t bytes) {
  void* memory;
  const cudaError_t status = cudaMallocHost(&memory, bytes);
  if (status == cudaSuccess) return memory;
  if (status != cudaErrorMemoryAllocation) CUDA_CHECK(status);
  (void)cudaGetLastError();
  throw OutOfMemory("HOST_MEMORY", name(current().device) + ": out of page-locked host memory", bytes, {});
}

uint32_t PinnedPool::class_size(size_t bytes) { return uint32_t(std::bit_ceil(std::max<size_t>(bytes, 4096))); }

void* PinnedPool::take(size_t bytes) {
  const uint32_t size = class_size(bytes);
  for (;;) {
    uint32_t taken = taken_;
    if (taken + size > most)
      taken_.wait(taken);
    else if (taken_.compare_exchange_weak(taken, taken + size))
      break;
  }
  std::lock_guard lock(mutex_);
  std::vector<void*>& blocks = free_[size];
  try {
    // Small ones by the slab: the system is asked once, not whenever one more read is under way than ever before.
    if (blocks.empty()) {
      const uint32_t slab = std::max(size, small_slab);
      char* const memory = static_cast<char*>(page_locked(slab));
      for (uint32_t at = slab; at > 0; at -= size) blocks.push_back(memory + at - size);
    }
  } catch (...) {
    taken_ -= size;
    throw;
  }
  void* const block = blocks.back();
  blocks.pop_back();
  return block;
}

void PinnedPool::give(void* block, size_t bytes) noexcept {
  const uint32_t size = class_size(bytes);
  {
    std::lock_guard lock(mutex_);
    free_[size].push_back(block);
  }
  taken_ -= size;
  taken_.notify_one();
}

char* StagingRing::take(size_t bytes) {
  if (!base_) base_ = static_cast<char*>(page_locked(capacity));
  const size_t size = (bytes + 255) / 256 * 256;
  for (;;) {
    while (!sent_.empty() && cudaEventQuery(sent_.front().event) == cudaSuccess) {
      events_.give(sent_.front().event);
      sent_.pop_front();
    }
    // Free are [head, capacity) and [0, tail), or [head, tail) once the head has wrapped; the head never reaches the tail.
    size_t begin = head_, end = capacity;
    if (sent_.empty())
      begin = 0;
    else if (const size_t tail = sent_.front().begin; head_ < tail)
      end = tail - 1;
    else if (head_ + size > capacity)
      begin = 0, end = tail - std::min<size_t>(tail, 1);
    if (begin + size <= end) {
      taken_ = begin;
      head_ = begin + size;
      return base_ + begin;
    }
    CUDA_CHECK(cudaEventSynchronize(sent_.front().event));  // the device is a whole ring behind
  }
}

void StagingRing::sent(cudaStream_t stream) {
  const cudaEvent_t event = events_.take();
  CUDA_CHECK(cudaEventRecord(event, stream));
  sent_.push_back({taken_, event});
}

// ---- the device

DeviceBackend::DeviceBackend(Device device, const cudaDeviceProp& properties)
    : Backend(device),
      ordinal(device.index),
      multiprocessors(properties.multiProcessorCount),
      shared_memory_limit(int(properties.sharedMemPerBlockOptin)),
      allocator_(*this) {
  CUDA_CHECK(cudaSetDevice(ordinal));
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  void* memory;
  CUDA_CHECK(cudaMalloc(&memory, sizeof(IndexWord)));
  word = static_cast<IndexWord*>(memory);
  CUDA_CHECK(cudaMemsetAsync(word, 0, sizeof(IndexWord), stream));
}

void* DeviceBackend::allocate(size_t bytes) {
  const OnDevice here(*this);
  return allocator_.allocate(bytes);
}

void DeviceBackend::allow_shared_memory(const void* kernel, size_t bytes) {
  size_t& allowed = allowed_shared_memory_[kernel];
  if (bytes <= allowed) return;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  allowed = bytes;
}

void DeviceBackend::start() {
  CUDA_CHECK(cudaSetDevice(ordinal));
  current_backend = this;
}

// On the compute stream, although a stream of its own would copy beside kernels: memory is reused in the order of one stream, so a copy
// into a block that the allocator has just handed out would wait for every kernel queued before it, and nothing would be won. What would
// win is a pool of blocks that only copies write, each with an event for its last reader. At 50 GB/s a batch of 1 MB takes 20 us, 64
// pictures of 224 x 224 take 0.2 ms, beside steps of many milliseconds: not worth a second order of memory.
void DeviceBackend::write(void* to, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const size_t piece = std::min(bytes - done, StagingRing::largest);
    char* const staged = staging_.take(piece);
    std::memcpy(staged, static_cast<const char*>(from) + done, piece);
    CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(to) + done, staged, piece, cudaMemcpyHostToDevice, stream));
    staging_.sent(stream);
    done += piece;
  }
}

namespace {

// Larger reads go piece by piece while the executor waits: they are checkpoints, not losses. Leaves room for the index word.
constexpr size_t largest_read = PinnedPool::most / 4 - sizeof(IndexWord);

class DeviceLanding final : public Landing {
 public:
  DeviceLanding(DeviceBackend& backend, void* to, size_t bytes)
      : backend_(backend),
        to_(to),
        bytes_(bytes),
        staged_(backend.pinned.take(sizeof(IndexWord) + bytes)),
        landed_(backend.events.take()) {}
  ~DeviceLanding() {
    backend_.events.give(landed_);
    backend_.pinned.give(staged_, sizeof(IndexWord) + bytes_);
  }

  void start(const void* from) {
    CUDA_CHECK(cudaMemcpyAsync(staged_, backend_.word, sizeof(IndexWord), cudaMemcpyDeviceToHost, backend_.stream));
    CUDA_CHECK(cudaMemsetAsync(&backend_.word->set, 0, sizeof(int), backend_.stream));
    if (bytes_) CUDA_CHECK(cudaMemcpyAsync(staged_bytes(), from, bytes_, cudaMemcpyDeviceToHost, backend_.stream));
    CUDA_CHECK(cudaEventRecord(landed_, backend_.stream));
  }

  std::optional<IndexFault> land() override {
    const OnDevice here(backend_);
    CUDA_CHECK(cudaEventSynchronize(landed_));
    if (bytes_) std::memcpy(to_, staged_bytes(), bytes_);
    IndexWord word;
    std::memcpy(&word, staged_, sizeof word);
    if (word.set == 0) return std::nullopt;
    if (word.set == 2)
      throw Error("DEVICE_LOST", name(backend_.device) + ": a kernel wrote byte " + std::to_string(word.position) + " of a tensor of " +
                                     std::to_string(word.bound) + " bytes");
    return IndexFault{word.op, word.argument, word.position, word.value, word.bound};
  }

 private:
  char* staged_bytes() const { return static_cast<char*>(staged_) + sizeof(IndexWord); }
  DeviceBackend& backend_;
  void* const to_;
  const size_t bytes_;
  void* const staged_;
  const cudaEvent_t landed_;
};

}  // namespace

std::unique_ptr<Landing> DeviceBackend::read(void* to, const void* from, size_t bytes) {
  size_t done = 0;
  for (; bytes - done > largest_read; done += largest_read) {
    void* const staged = pinned.take(largest_read);
    CUDA_CHECK(cudaMemcpyAsync(staged, static_cast<const char*>(from) + done, largest_read, cudaMemcpyDeviceToHost, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
    std::memcpy(static_cast<char*>(to) + done, staged, largest_read);
    pinned.give(staged, largest_read);
  }
  auto landing = std::make_unique<DeviceLanding>(*this, static_cast<char*>(to) + done, bytes - done);
  landing->start(static_cast<const char*>(from) + done);
  return landing;
}

void DeviceBackend::finish() { CUDA_CHECK(cudaStreamSynchronize(stream)); }

// ---- which devices there are

static std::string version_name(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

ModuleProbe probe() {
  ModuleProbe found;
  if (cudaDriverGetVersion(&found.driver_version) != cudaSuccess) found.driver_version = 0;
  if (cudaRuntimeGetVersion(&found.runtime_version) != cudaSuccess) found.runtime_version = 0;
  (void)cudaGetLastError();
  const std::string needed = std::string(oldest_driver_name) + " or newer (CUDA " + version_name(oldest_driver) + ")";
  if (found.driver_version == 0) {
    found.problem = "there is no NVIDIA driver on this machine";
    found.advice = "install the NVIDIA driver " + needed + "; a CUDA toolkit is not needed";
    return found;
  }
  if (found.driver_version < oldest_driver) {
    found.problem = "the NVIDIA driver is too old: it offers CUDA " + version_name(found.driver_version);
    found.advice = "install the NVIDIA driver " + needed;
    return found;
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    count = 0;
  }
  std::string unsupported;
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) {
      (void)cudaGetLastError();
      continue;
    }
    const int compute = properties.major * 10 + properties.minor;
    found.devices.push_back({properties.name, compute, properties.totalGlobalMem});
    if (compute < oldest_compute)
      unsupported += (unsupported.empty() ? "" : ", ") + std::string(properties.name) + " (compute " + std::to_string(properties.major) +
                     "." + std::to_string(properties.minor) + ")";
  }
  if (found.devices.empty()) {
    found.problem = std::string("the driver shows no GPU") + (status == cudaSuccess ? "" : std::string(": ") + cudaGetErrorString(status));
    found.advice = std::getenv("CUDA_VISIBLE_DEVICES") ? "CUDA_VISIBLE_DEVICES is '" + std::string(std::getenv("CUDA_VISIBLE_DEVICES")) +
                                                             "': unset it, or name a device that nvidia-smi lists"
                                                       : "look at what nvidia-smi says";
  } else if (std::all_of(found.devices.begin(), found.devices.end(),
                         [](const ModuleDevice& device) { return device.compute_capability < oldest_compute; })) {
    found.problem = "no supported GPU: " + unsupported;
    found.advice = "GPUs of compute capability 8.0 (Ampere) or newer are supported";
  }
  return found;
}

static __global__ void any_kernel() {}

Backend* open(int index) {
  const std::string device = name(Device{kind, index});
  const ModuleProbe found = probe();
  const auto unavailable = [&](const std::string& why) { throw Error("DEVICE_UNAVAILABLE", device + ": " + why); };
  if (!found.problem.empty()) unavailable(found.problem + "; " + found.advice);
  const int count = int(found.devices.size());
  if (index < 0 || index >= count)
    unavailable("this machine has " + std::to_string(count) + (count == 1 ? " device" : " devices") + ", counted from 0");
  if (found.devices[size_t(index)].compute_capability < oldest_compute)
    unavailable(found.devices[size_t(index)].name + " is not supported: compute capability 8.0 (Ampere) or newer is");
  // Another process may hold the device alone, or all its memory; this build may have no code for it.
  try {
    cudaDeviceProp properties;
    cudaFuncAttributes attributes;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    CUDA_CHECK(cudaSetDevice(index));
    CUDA_CHECK(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(any_kernel)));
    return new DeviceBackend(Device{kind, index}, properties);
  } catch (const Error& error) {
    (void)cudaGetLastError();
    unavailable(found.devices[size_t(index)].name + " cannot be used: " + error.what());
  }
  return nullptr;
}

}  // namespace galago::cuda
