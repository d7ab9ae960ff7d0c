// The CPU's caching allocator: 64-byte aligned blocks in size classes, kept for reuse so that a training step asks the system
// for nothing after the first one.
#pragma once
#include "backend.h"

namespace galago {

void* allocate(size_t bytes);  // throws OutOfMemory
void deallocate(void* block, size_t bytes);
MemoryStatistics memory_statistics();
void reset_peak();

// Test modes. Poison fills fresh blocks with bytes that read as NaN. The k-th coming request fails (0 = never).
void set_memory_poison(bool on);
void fail_allocation(int64_t k);

}  // namespace galago
