// The CPU's caching allocator: 64-byte aligned blocks in size classes, kept for reuse so that a training step asks the system
// for nothing after the first one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "error.h"

namespace galago {

struct MemoryStatistics {
  size_t live, reserved, peak;
  int64_t allocations;  // requests to the system, for tests
};

// The system has no more memory: what was asked for, and what the allocator held at that moment.
struct OutOfMemory : Error {
  OutOfMemory(const std::string& message, size_t requested, const MemoryStatistics& held);
  size_t requested;
  MemoryStatistics held;
};

void* allocate(size_t bytes);  // throws OutOfMemory
void deallocate(void* block, size_t bytes);
void release_cached();
MemoryStatistics memory_statistics();
void reset_peak();

// Test modes. Poison fills fresh blocks with bytes that read as NaN. The k-th coming request fails (0 = never).
void set_memory_poison(bool on);
void fail_allocation(int64_t k);

}  // namespace galago
