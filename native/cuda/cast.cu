/*
cast: float32 to bfloat16 and back, eight elements per thread where the addresses allow. Rounds to nearest, ties to even.
*/
#include "vec.cuh"

namespace galago::cuda {

template <class T>
struct alignas(16) Eight {
  T v[8];
};

template <class From, class To>
__global__ void __launch_bounds__(256) cast_kernel(const From* x, To* out, int64_t n, bool aligned) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t eights = aligned ? n / 8 : 0;
  for (int64_t i = first; i < eights; i += stride) {
    const Eight<From> from = *reinterpret_cast<const Eight<From>*>(x + i * 8);
    Eight<To> to;
#pragma unroll
    for (int k = 0; k < 8; k++) to.v[k] = from_float<To>(to_float(from.v[k]));
    *reinterpret_cast<Eight<To>*>(out + i * 8) = to;
  }
  for (int64_t i = eights * 8 + first; i < n; i += stride) out[i] = from_float<To>(to_float(x[i]));
}

// ---- launchers

template <class From, class To>
static void run(const Tensor& x, Tensor& out) {
  const int64_t n = x.size();
  const From* from = x.data<From>();
  To* to = out.data<To>();
  launch(cast_kernel<From, To>, grid_of((n + 2047) / 2048), 256, 0, from, to, n, packed<From>(0, from, to));
}

void cast(const Tensor& x, Tensor& out) {
  CHECK(x.size() == out.size(), "cast: sizes differ");
  if (x.dtype == DType::float32 && out.dtype == DType::bfloat16) return run<float, bfloat16>(x, out);
  CHECK(x.dtype == DType::bfloat16 && out.dtype == DType::float32, "cast: expected float32 and bfloat16");
  run<bfloat16, float>(x, out);
}

}  // namespace galago::cuda
