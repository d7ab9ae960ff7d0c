// What a device offers to storages and to its executor. The CPU's is in devices.cpp, CUDA's in its module (module.h).
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "error.h"

namespace galago {

enum class DeviceKind : uint8_t { cpu, cuda, cuda_emu };
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

inline std::string name(Device device) {
  if (device.kind == DeviceKind::cpu) return "cpu";
  return device.kind == DeviceKind::cuda ? "cuda:" + std::to_string(device.index) : "cuda-emu";
}

struct MemoryStatistics {
  size_t live = 0, reserved = 0, peak = 0;
  int64_t allocations = 0;      // requests to the system, for tests
  size_t free = 0, total = 0;   // of the device; 0 = not known
  std::vector<size_t> largest;  // bytes of the largest live tensors, in errors only
};

// There is no more memory: what was asked for, and what the allocator held at that moment.
struct OutOfMemory : Error {
  OutOfMemory(std::string code, const std::string& message, size_t requested, MemoryStatistics held)
      : Error(std::move(code), message + ": requested " + std::to_string(requested) + " bytes, live " + std::to_string(held.live) +
                                   ", reserved " + std::to_string(held.reserved) + ", peak " + std::to_string(held.peak) +
                                   (held.total ? ", free " + std::to_string(held.free) + " of " + std::to_string(held.total) : "")),
        requested(requested),
        held(std::move(held)) {}
  size_t requested;
  MemoryStatistics held;
};

// An index outside [0, bound) that a kernel met.
struct IndexFault {
  const char *op, *argument;
  int64_t position, value, bound;
};

// A read that is under way on a device that computes beside its executor.
class Landing {
 public:
  virtual ~Landing() = default;
  // Returns when the bytes are there and all work queued before the read is done, with the first index fault of that work; throws what
  // failed. Called on a thread of its own.
  virtual std::optional<IndexFault> land() = 0;
};

class Executor;
struct ModuleKernel;

// One object per device, never destroyed.
class Backend {
 public:
  explicit Backend(Device device) : device(device) {}
  const Device device;
  const ModuleKernel* kernels = nullptr;     // of a module, in the order of table.inl; the CPU's are linked in
  std::atomic<Executor*> executor{nullptr};  // see Executor::of

  // Any thread.
  virtual void* allocate(size_t bytes) = 0;  // throws OutOfMemory
  virtual void deallocate(void* block, size_t bytes) noexcept = 0;
  virtual MemoryStatistics memory() = 0;
  virtual void reset_peak() = 0;
  // Test modes: fresh and freed memory reads as NaN; the k-th coming request fails; kernels get at most `blocks` blocks (0 = no limit).
  virtual void set_memory_poison(bool on) = 0;
  virtual void fail_allocation(int64_t k) = 0;
  virtual void set_grid_limit(int blocks) = 0;

  // The executor's thread only.
  virtual void start() = 0;                                                             // before anything else
  virtual void write(void* to, const void* from, size_t bytes) = 0;                     // in queue order; `from` may change at once
  virtual std::unique_ptr<Landing> read(void* to, const void* from, size_t bytes) = 0;  // null: the bytes are there
  virtual void finish() = 0;                                                            // returns when everything queued is done

 protected:
  ~Backend() = default;
};

}  // namespace galago
