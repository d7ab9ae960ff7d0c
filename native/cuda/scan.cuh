// Exclusive sums of integers: over a block, and over an array of any length in chunks whose sums are scanned first.
#pragma once
#include "reduce.cuh"

namespace galago::cuda {

constexpr int scan_threads = 256, scan_items = 16, scan_chunk = scan_threads * scan_items;

// Sum of x over the threads before this one; `total` receives the sum over the block (whole warps, one dimension). All threads call.
__device__ __forceinline__ int block_exclusive_sum(int x, int& total) {
  SHARED(int[warp_size], sums);
  int inclusive = x;
#pragma unroll
  for (int offset = 1; offset < warp_size; offset *= 2) {
    const int before = __shfl_up_sync(full_mask, inclusive, offset);
    if (lane() >= offset) inclusive += before;
  }
  __syncthreads();  // the values of an earlier call are still being read
  if (lane() == warp_size - 1) sums[warp()] = inclusive;
  __syncthreads();
  int before_warp = 0;
  total = 0;
  for (int w = 0; w < int(blockDim.x) / warp_size; w++) {
    if (w < warp()) before_warp += sums[w];
    total += sums[w];
  }
  return before_warp + inclusive - x;
}

// sums[c] = sum of chunk c.
static __global__ void scan_chunk_sums_kernel(const int32_t* data, int32_t* sums, int64_t n, int64_t chunks) {
  for (int64_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    int sum = 0;
    for (int k = 0; k < scan_items; k++) {
      const int64_t i = c * scan_chunk + k * scan_threads + threadIdx.x;
      if (i < n) sum += data[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[c] = sum;
  }
}

// data[i] = bases[c] + sum of the entries of chunk c before i; bases may be null: 0.
static __global__ void scan_chunks_kernel(int32_t* data, const int32_t* bases, int64_t n, int64_t chunks) {
  for (int64_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    int base = bases ? bases[c] : 0;
    for (int k = 0; k < scan_items; k++) {
      const int64_t i = c * scan_chunk + k * scan_threads + threadIdx.x;
      int total;
      const int before = block_exclusive_sum(i < n ? data[i] : 0, total);
      if (i < n) data[i] = base + before;
      base += total;
    }
  }
}

// ---- launcher

// data[i] becomes the sum of data[0 .. i), in place. The sum of all must stay below 2^31.
inline void exclusive_scan(int32_t* data, int64_t n) {
  const int64_t chunks = (n + scan_chunk - 1) / scan_chunk;
  if (chunks <= 1) return launch(scan_chunks_kernel, unsigned(chunks), scan_threads, 0, data, nullptr, n, chunks);
  const Scratch<int32_t> sums(chunks);
  launch(scan_chunk_sums_kernel, grid_of(chunks), scan_threads, 0, data, sums.data(), n, chunks);
  exclusive_scan(sums.data(), chunks);
  launch(scan_chunks_kernel, grid_of(chunks), scan_threads, 0, data, sums.data(), n, chunks);
}

}  // namespace galago::cuda
