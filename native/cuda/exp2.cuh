// 2 to the power of x by the special-function unit: relative error below 2^-22, results below 2^-126 become 0, -infinity gives 0.
#pragma once
#include "launch.cuh"

namespace galago::cuda {

__device__ __forceinline__ float fast_exp2(float x) {
#ifdef GALAGO_EMULATED
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

}  // namespace galago::cuda
