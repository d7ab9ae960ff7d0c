/*
Dropout: element i is kept where its 16 random bits are below 65536 keep. The bits are a function of (seed, step, call, i), so backward
makes the mask again and nothing is stored. One Philox block decides eight elements: one thread makes it and writes all eight.
*/
#include <algorithm>
#include <cmath>

#include "../core/philox.h"
#include "vec.cuh"

namespace galago::cuda {

struct DropoutMask {
  uint32_t seed_low, seed_high, call, step, threshold;
  float scale;
};

template <class T>
__global__ void __launch_bounds__(256) dropout_kernel(const T* x, T* out, int64_t n, DropoutMask mask, bool aligned) {
  constexpr int width = pack_width<T>;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < (n + 7) / 8; i += stride) {
    const Philox4 bits = philox(uint32_t(i), uint32_t(uint64_t(i) >> 32), mask.call, mask.step, mask.seed_low, mask.seed_high);
    const auto apply = [&](T value, int j) {
      const uint32_t decision = j % 2 == 0 ? bits.v[j / 2] & 0xffff : bits.v[j / 2] >> 16;
      // Not a product: a dropped infinity is 0
      return decision < mask.threshold ? from_float<T>(to_float(value) * mask.scale) : from_float<T>(0.0f);
    };
    const int64_t at = i * 8;
    if (aligned && at + 8 <= n) {
#pragma unroll
      for (int part = 0; part < 8; part += width) {
        Pack<T> pack = load_pack(x + at + part);
#pragma unroll
        for (int j = 0; j < width; j++) pack.v[j] = apply(pack.v[j], part + j);
        store_pack(out + at + part, pack);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++)
        if (at + j < n) out[at + j] = apply(x[at + j], j);
    }
  }
}

// ---- launchers

void dropout(const Tensor& x, Tensor& out, double p, int64_t seed, int64_t step, int64_t call) {
  // The keep probability lies on the grid of the 16-bit decisions; the scale uses the rounded value, so the mean is exact.
  const uint32_t threshold = uint32_t(std::clamp(std::nearbyint((1 - p) * 65536), 1.0, 65536.0));
  const DropoutMask mask{uint32_t(seed), uint32_t(uint64_t(seed) >> 32), uint32_t(call), uint32_t(step),
                         threshold,      float(65536.0 / threshold)};
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t n = x.size();
    const T* from = x.data<T>();
    T* to = out.data<T>();
    launch(dropout_kernel<T>, grid_of((n + 2047) / 2048), 256, 0, from, to, n, mask, packed<T>(0, from, to));
  });
}

}  // namespace galago::cuda
