// The caching allocator of a CUDA device.
//
// All work of a device runs on one stream, so a block is free for the next launch as soon as its last owner has gone: no events, no
// waiting. Requests below 1 MiB are cut from slabs of 2 MiB in steps of 512 bytes, larger ones come in steps of 2 MiB; best fit, split,
// and neighbours that are free become one again.
#pragma once
#include <mutex>
#include <set>
#include <unordered_map>

#include "launch.cuh"

namespace galago::cuda {

class DeviceBackend;

class Allocator {
 public:
  explicit Allocator(DeviceBackend& device) : device_(device) {}
  void* allocate(size_t bytes);            // throws OutOfMemory DEVICE_MEMORY; the device is current
  void deallocate(void* memory) noexcept;  // no CUDA call but in test mode
  MemoryStatistics statistics();
  void reset_peak();
  // Test mode: fresh and freed memory reads as NaN, and each block has a guard band behind it; what a kernel wrote there is reported
  // through the index word when the block is freed.
  void set_poison(bool on);
  void fail(int64_t k);

 private:
  struct Block;
  struct Smaller {
    bool operator()(const Block* a, const Block* b) const { return a->size != b->size ? a->size < b->size : a->start < b->start; }
  };
  using Pool = std::set<Block*, Smaller>;  // free blocks, of slabs for small or for large requests
  struct Block {
    char* start;
    size_t size;
    Pool* pool;
    size_t asked = 0;  // 0 = free
    bool guarded = false;
    Block *previous = nullptr, *next = nullptr;  // neighbours in the slab
  };

  Block* take(size_t size);
  bool release();  // gives free slabs back; false when there was none
  [[noreturn]] void out_of_memory(const std::string& what, size_t bytes);

  static constexpr size_t step = 512, large = 1 << 20, slab = 2 << 20;
  DeviceBackend& device_;
  std::recursive_mutex mutex_;  // a launch that fails under it asks for the statistics
  Pool small_, large_;
  std::unordered_map<void*, Block*> live_blocks_;
  size_t live_ = 0, reserved_ = 0, peak_ = 0;
  int64_t allocations_ = 0, fail_in_ = 0;
  bool poison_ = false;
};

}  // namespace galago::cuda
