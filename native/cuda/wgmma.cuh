// Products of bfloat16 tiles by a warpgroup of Hopper (sm_90a only): sums (64 x N) += a (64 x 16) b (16 x N) in float32, by the 128 threads
// of four consecutive warps, the first a multiple of four. The product runs beside the threads: until it has been waited for, the sums and
// the registers of `a` belong to it.
//
//   fence_products();                       // sums and registers that the threads wrote
//   for (...) multiply<N>(sums, a, b);
//   commit_products(); wait_products<0>(sums);
#pragma once
#include "mma.cuh"
#ifndef GALAGO_EMULATED
#include "wgmma_instructions.cuh"
#endif

namespace galago::cuda {

// ---- where elements lie

// Sum i (of N / 2) of a thread of the warpgroup: rows of 16 per warp, fragments of mma.sync (16 x 8) side by side.
__host__ __device__ constexpr Place place_in_products(int thread, int i) {
  const Place place = place_in_sums(thread % 32, i % 4);
  return {thread / 32 * 16 + place.row, i / 4 * 8 + place.column};
}

template <int N>
constexpr bool products_cover_once() {
  bool seen[64 * N] = {};
  for (int thread = 0; thread < 128; thread++) {
    for (int i = 0; i < N / 2; i++) {
      const Place at = place_in_products(thread, i);
      if (at.row < 0 || at.row >= 64 || at.column < 0 || at.column >= N || seen[at.row * N + at.column]) return false;
      seen[at.row * N + at.column] = true;
    }
  }
  return true;
}
static_assert(products_cover_once<8>() && products_cover_once<32>());

// Of a tile with rows of 128 bytes, aligned to 1024: where the 16-byte chunk of a row lies (the swizzle that tensor maps use too).
__host__ __device__ constexpr unsigned swizzled_byte(unsigned byte) { return byte ^ (byte >> 7 & 7) << 4; }

// A tile in shared memory whose rows of 128 bytes hold 64 elements along K: rows are rows of `a` or columns of `b`. `address` is the
// tile's (aligned to 1024) plus 32 bytes per step of 16 along K.
__host__ __device__ constexpr uint64_t rows_along_k(unsigned address) {
  constexpr uint64_t swizzle_128 = uint64_t(1) << 62, rows_of_8 = uint64_t(1024 >> 4) << 32;
  return swizzle_128 | rows_of_8 | uint64_t(1) << 16 | (address & 0x3ffff) >> 4;
}

// For `b` with N innermost (B_TRANSPOSED): rows of 128 bytes hold 64 elements along N, a row per k, so 16 rows are a step along K (2048
// bytes). `next_64` is the distance in bytes to the next 64 of N, a multiple of 1024.
__host__ __device__ constexpr uint64_t rows_along_n(unsigned address, unsigned next_64) {
  constexpr uint64_t swizzle_128 = uint64_t(1) << 62, rows_of_8 = uint64_t(1024 >> 4) << 32;
  return swizzle_128 | rows_of_8 | uint64_t(next_64 >> 4) << 16 | (address & 0x3ffff) >> 4;
}

// ---- instructions

// Before the first product: what the threads wrote to sums and to registers of `a`.
__device__ __forceinline__ void fence_products() {
#ifndef GALAGO_EMULATED
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// `a` and `b` are descriptors of shared memory. Without `accumulate` the sums start at zero.
template <int N, bool B_TRANSPOSED = false>
__device__ __forceinline__ void multiply(float (&sums)[N / 2], uint64_t a, uint64_t b, bool accumulate = true) {
#ifdef GALAGO_EMULATED
  emu::start_product(N, {sums, nullptr, a, b, B_TRANSPOSED, accumulate});
#else
  wgmma<B_TRANSPOSED>(sums, a, b, int(accumulate));
#endif
}

// `a` in registers: per warp 16 rows, as place_in_a says.
template <int N, bool B_TRANSPOSED = false>
__device__ __forceinline__ void multiply(float (&sums)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true) {
#ifdef GALAGO_EMULATED
  emu::start_product(N, {sums, a, 0, b, B_TRANSPOSED, accumulate});
#else
  wgmma<B_TRANSPOSED>(sums, a, b, int(accumulate));
#endif
}

__device__ __forceinline__ void commit_products() {
#ifdef GALAGO_EMULATED
  emu::commit_products();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most PENDING groups are under way.
template <int PENDING>
__device__ __forceinline__ void wait_products() {
#ifdef GALAGO_EMULATED
  emu::wait_products(PENDING);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#endif
}

// The same, and the sums are read next. They pass through an empty statement behind the wait: the compiler does not connect the two.
template <int PENDING, int COUNT>
__device__ __forceinline__ void wait_products(float (&sums)[COUNT]) {
  wait_products<PENDING>();
#ifndef GALAGO_EMULATED
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(sums[i])::"memory");
#endif
}

}  // namespace galago::cuda
