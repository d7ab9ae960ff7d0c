// The CPU's caching allocator: 64-byte aligned blocks in size classes, kept for reuse so that a training step asks the system
// for nothing after the first one.
#pragma once
#include <memory>
#include <string>

#include "backend.h"

namespace galago {

void* allocate(size_t bytes);  // throws OutOfMemory
void deallocate(void* block, size_t bytes);
MemoryStatistics memory_statistics();
void reset_peak();

// `bytes` of memory that begins with `file_bytes` of a file from `offset` on; behind the file's last page it is zero. Pages come from the
// system's cache of the file, shared by all who map it; a write here is a copy of ours, the file stays as it is. Throws Error("STORAGE").
std::shared_ptr<void> map_file(const std::string& path, size_t offset, size_t file_bytes, size_t bytes);

// Test modes. Poison fills fresh blocks with bytes that read as NaN. The k-th coming request fails (0 = never).
void set_memory_poison(bool on);
void fail_allocation(int64_t k);

}  // namespace galago
