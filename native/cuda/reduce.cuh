// Sums and maxima over a warp or a block, in an order that is the same in every run.
#pragma once
#include "launch.cuh"

namespace galago::cuda {

constexpr unsigned full_mask = 0xffffffffu;
constexpr int warp_size = 32;

__device__ __forceinline__ int lane() { return int(threadIdx.x) % warp_size; }
__device__ __forceinline__ int warp() { return int(threadIdx.x) / warp_size; }

// Every lane receives the sum over the warp. All 32 lanes call.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(full_mask, x, offset);
  return x;
}

template <class T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(full_mask, x, offset);
    x = x < other ? other : x;
  }
  return x;
}

// Every thread receives the sum over a block of whole warps (one dimension). All threads call; two barriers.
template <class T>
__device__ __forceinline__ T block_sum(T x) {
  SHARED(T[warp_size], sums);
  x = warp_sum(x);
  __syncthreads();  // the values of an earlier call are still being read
  if (lane() == 0) sums[warp()] = x;
  __syncthreads();
  return warp_sum(lane() < int(blockDim.x) / warp_size ? sums[lane()] : T(0));
}

template <class T>
__device__ __forceinline__ T block_max(T x) {
  SHARED(T[warp_size], maxima);
  x = warp_max(x);
  __syncthreads();
  if (lane() == 0) maxima[warp()] = x;
  __syncthreads();
  return warp_max(maxima[lane() < int(blockDim.x) / warp_size ? lane() : 0]);
}

}  // namespace galago::cuda
