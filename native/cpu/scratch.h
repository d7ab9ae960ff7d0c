// Scratch memory of CPU kernels: one growing buffer per thread and slot, aligned to a cache line, never given back.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace galago::cpu {

// A kernel that calls another one must not hand it the slot that it still uses: matmul has slots of its own.
enum class ScratchSlot { matmul_a, matmul_b, matmul_partial, kernel, kernel_second, count };

inline void* scratch_bytes(ScratchSlot slot, int64_t bytes) {
  struct Buffers {
    void* data[static_cast<int>(ScratchSlot::count)] = {};
    int64_t size[static_cast<int>(ScratchSlot::count)] = {};
    ~Buffers() {
      for (void* pointer : data) std::free(pointer);
    }
  };
  static thread_local Buffers buffers;
  const int index = static_cast<int>(slot);
  if (buffers.size[index] < bytes) {
    std::free(buffers.data[index]);
    buffers.size[index] = 0;
    const int64_t rounded = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    buffers.data[index] = std::aligned_alloc(64, static_cast<size_t>(rounded));
    if (!buffers.data[index]) throw std::bad_alloc();
    buffers.size[index] = rounded;
  }
  return buffers.data[index];
}

// Room for n elements, uninitialised; valid until the same thread asks for the same slot again.
template <class T>
T* scratch(ScratchSlot slot, int64_t n) {
  return static_cast<T*>(scratch_bytes(slot, n * static_cast<int64_t>(sizeof(T))));
}

}  // namespace galago::cpu
