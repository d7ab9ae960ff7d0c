// Copies from global into shared memory that bypass registers (cp.async), and the swizzles that keep ldmatrix free of bank conflicts.
// A kernel starts the copies of a stage, commits them as a group, and waits until at most N groups are still under way; then a barrier
// makes every thread's copies visible to the block.
#pragma once
#include "launch.cuh"

namespace galago::cuda {

// ---- instructions

// Copies BYTES (4, 8 or 16; both addresses aligned to it). Only the first `valid` of them are read, the rest become zero: with 0
// nothing is read at all.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* to_shared, const void* from, int valid = BYTES) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
#ifdef GALAGO_EMULATED
  emu::defer_copy(to_shared, from, BYTES, valid);
#else
  const auto to = unsigned(__cvta_generic_to_shared(to_shared));
  if constexpr (BYTES == 16)  // past the first-level cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(valid) : "memory");
#endif
}

// The copies that this thread has started since the last commit become a group, also when there are none.
__device__ __forceinline__ void commit_copies() {
#ifdef GALAGO_EMULATED
  emu::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
#ifdef GALAGO_EMULATED
  emu::wait_copies(PENDING);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// ---- swizzle

// Where the 16-byte chunk (row, chunk) of a tile with CHUNKS chunks per row lies, in chunks: the chunks of a row change places so that
// eight consecutive rows have the same chunk in eight different places of a 128-byte line, as ldmatrix wants it.
template <int CHUNKS>
__host__ __device__ constexpr int swizzled(int row, int chunk) {
  static_assert(CHUNKS == 1 || CHUNKS == 2 || CHUNKS == 4 || CHUNKS % 8 == 0);
  if constexpr (CHUNKS >= 8)
    return row * CHUNKS + (chunk ^ (row % 8));
  else
    return row * CHUNKS + (chunk ^ (row * CHUNKS / 8 % CHUNKS));
}

// Eight rows are mapped onto themselves, every place once, and each chunk's eight rows lie in eight places of a line.
template <int CHUNKS>
constexpr bool is_swizzle() {
  bool taken[8 * CHUNKS] = {};
  for (int chunk = 0; chunk < CHUNKS; chunk++) {
    unsigned places = 0;
    for (int row = 0; row < 8; row++) {
      const int at = swizzled<CHUNKS>(row, chunk);
      if (at < 0 || at >= 8 * CHUNKS || taken[at]) return false;
      taken[at] = true;
      places |= 1u << (at % 8);
    }
    if (places != 0xff) return false;
  }
  return true;
}
static_assert(is_swizzle<1>() && is_swizzle<2>() && is_swizzle<4>() && is_swizzle<8>() && is_swizzle<16>() && is_swizzle<24>() &&
              is_swizzle<32>());

}  // namespace galago::cuda
