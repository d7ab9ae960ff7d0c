// A CUDA device of this process: its stream, memory, pinned staging and index word. Only device.cu, memory.cu and module.cu look inside.
#pragma once
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "../core/module.h"
#include "memory.cuh"

namespace galago::cuda {

ModuleProbe probe();       // never throws
Backend* open(int index);  // throws Error DEVICE_UNAVAILABLE

// Events without timing, kept for reuse. Any thread.
class EventPool {
 public:
  cudaEvent_t take();
  void give(cudaEvent_t event);

 private:
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

// Page-locked host memory for reads, in powers of two, kept for reuse. A thread that takes more than `most` waits for what others give
// back: a checkpoint is read tensor by tensor. Any thread.
class PinnedPool {
 public:
  static constexpr uint32_t most = 64 << 20, small_slab = 1 << 18;
  void* take(size_t bytes);  // at most a quarter of `most`
  void give(void* block, size_t bytes) noexcept;

 private:
  static uint32_t class_size(size_t bytes);
  std::mutex mutex_;
  std::atomic<uint32_t> taken_{0};  // bytes
  std::map<size_t, std::vector<void*>> free_;
};

// Page-locked host memory through which writes go: a ring, so that the host waits only when the device is a whole ring behind.
// The executor's thread only.
class StagingRing {
 public:
  static constexpr size_t capacity = 32 << 20, largest = capacity / 4;
  explicit StagingRing(EventPool& events) : events_(events) {}
  char* take(size_t bytes);        // at most `largest`
  void sent(cudaStream_t stream);  // the copy out of the last piece taken is queued

 private:
  struct Piece {
    size_t begin;
    cudaEvent_t event;
  };
  EventPool& events_;
  char* base_ = nullptr;
  size_t head_ = 0;
  size_t taken_ = 0;  // begin of the piece that is being filled
  std::deque<Piece> sent_;
};

class DeviceBackend final : public Backend {
 public:
  DeviceBackend(Device device, const cudaDeviceProp& properties);

  void* allocate(size_t bytes) override;
  void deallocate(void* block, size_t) noexcept override { allocator_.deallocate(block); }
  MemoryStatistics memory() override { return allocator_.statistics(); }
  void reset_peak() override { allocator_.reset_peak(); }
  void set_memory_poison(bool on) override { allocator_.set_poison(on); }
  void fail_allocation(int64_t k) override { allocator_.fail(k); }
  void set_grid_limit(int blocks) override { grid_limit = blocks; }

  void start() override;
  void write(void* to, const void* from, size_t bytes) override;
  std::unique_ptr<Landing> read(void* to, const void* from, size_t bytes) override;
  void finish() override;
  void allow_shared_memory(const void* kernel, size_t bytes);  // the executor's thread only

  const int ordinal, multiprocessors, shared_memory_limit;
  std::atomic<int> grid_limit{0};
  cudaStream_t stream = nullptr;
  IndexWord* word = nullptr;  // in device memory
  EventPool events;
  PinnedPool pinned;

 private:
  Allocator allocator_;
  StagingRing staging_{events};
  std::unordered_map<const void*, size_t> allowed_shared_memory_;
};

// The device that launches of this thread go to.
DeviceBackend& current();

// Makes `backend` current for a while on a thread that is not its executor's.
class OnDevice {
 public:
  explicit OnDevice(DeviceBackend& backend);
  ~OnDevice();

 private:
  DeviceBackend* before_;
};

}  // namespace galago::cuda
