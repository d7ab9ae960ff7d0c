// log sum e^s of many scores with a running maximum: neither overflows nor underflows, whatever the scores.
#pragma once
#include "launch.cuh"

namespace galago::cuda {

__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }  // log(1 + e^x)

// e^top sum. Without scores, or with scores of minus infinity only, top is minus infinity and sum 0.
struct LogSum {
  float top, sum;

  __device__ __forceinline__ void raise(float to) {
    if (to > top) {
      sum *= expf(top - to);
      top = to;
    }
  }
  template <int n>
  __device__ __forceinline__ void add(const float (&s)[n]) {
    float largest = s[0];
#pragma unroll
    for (int i = 1; i < n; i++) largest = fmaxf(largest, s[i]);
    raise(largest);
    const float reference = top == -INFINITY ? 0.0f : top;
#pragma unroll
    for (int i = 0; i < n; i++) sum += expf(s[i] - reference);
  }
  __device__ __forceinline__ void add(float s) {
    const float one[1] = {s};
    add(one);
  }
  __device__ __forceinline__ void merge(LogSum other) {
    raise(other.top);
    if (other.sum != 0) sum += other.sum * expf(other.top - top);  // true for NaN, which stays
  }
  __device__ __forceinline__ float value() const { return sum == 0 ? -INFINITY : top + logf(sum); }
};

__device__ __forceinline__ LogSum no_scores() { return {-INFINITY, 0}; }

__device__ __forceinline__ LogSum shuffle_xor(LogSum x, int offset) {
  return {__shfl_xor_sync(0xffffffffu, x.top, offset), __shfl_xor_sync(0xffffffffu, x.sum, offset)};
}

// The log-sum of the scores of this lane and of those that differ from it in the bits offset, 2 offset, .. 16 of their number: all of
// them receive it. All lanes of the warp call.
template <int n>
__device__ __forceinline__ LogSum log_sum_of_lanes(const float (&s)[n], int offset) {
  float top = s[0], sum = 0;
#pragma unroll
  for (int i = 1; i < n; i++) top = fmaxf(top, s[i]);
  for (int o = offset; o < 32; o *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
  const float reference = top == -INFINITY ? 0.0f : top;
#pragma unroll
  for (int i = 0; i < n; i++) sum += expf(s[i] - reference);
  for (int o = offset; o < 32; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  return {top, sum};
}

}  // namespace galago::cuda
