/*
Element by element: out = f(x), dx = dout f'(x). Backward reads what the derivative is cheapest in: x for gelu and silu, out otherwise.
16 bytes at a time where the size allows; computed in float32.
*/
#include "activation.cuh"
#include "vec.cuh"

namespace galago::cuda {

// (x, out, dout) -> the value to store: forward ignores the last two
template <bool BACKWARD, Activation KIND, class T>
__device__ __forceinline__ T activation_value(T x, T out, T dout) {
  if constexpr (BACKWARD)
    return from_float<T>(to_float(dout) * slope<KIND>(to_float(x), to_float(out)));
  else
    return from_float<T>(activate<KIND>(to_float(x)));
}

template <bool BACKWARD, Activation KIND, class T>
__global__ void activation_kernel(const T* x, const T* out, const T* dout, T* result, int64_t n, bool whole_packs) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t packs = whole_packs ? n / pack_width<T> : 0;
  for (int64_t i = first; i < packs; i += stride) {
    const int64_t at = i * pack_width<T>;
    const Pack<T> px = load_pack(x + at);
    Pack<T> po{}, pd{}, pr;
    if constexpr (BACKWARD) po = load_pack(out + at), pd = load_pack(dout + at);
#pragma unroll
    for (int k = 0; k < pack_width<T>; k++) pr.v[k] = activation_value<BACKWARD, KIND>(px.v[k], po.v[k], pd.v[k]);
    store_pack(result + at, pr);
  }
  for (int64_t i = packs * pack_width<T> + first; i < n; i += stride)
    result[i] = activation_value<BACKWARD, KIND>(x[i], BACKWARD ? out[i] : T(), BACKWARD ? dout[i] : T());
}

// ---- launchers

template <bool BACKWARD>
static void run(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& result, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch_activation(kind, [&]<Activation KIND>() {
      const int64_t n = x.size();
      const T *px = x.data<T>(), *po = out.data<T>(), *pd = dout.data<T>();
      T* pr = result.data<T>();
      launch(activation_kernel<BACKWARD, KIND, T>, grid_of((n + 1023) / 1024), 256, 0, px, po, pd, pr, n, packed<T>(0, px, po, pd, pr));
    });
  });
}

void activation_forward(const Tensor& x, Tensor& out, Activation kind) { run<false>(x, {}, {}, out, kind); }

void activation_backward(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& dx, Activation kind) {
  run<true>(x, out, dout, dx, kind);
}

}  // namespace galago::cuda
