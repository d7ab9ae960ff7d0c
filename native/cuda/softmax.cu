/*
Softmax over the last dimension: p = e^(x - max) / sum; dx = p (dp - sum p dp). A row of minus infinities has probabilities 0.
Bound by bytes: a group of lanes (a block for long rows) passes over its row for the maximum, the sum and the result; the later
passes read the first-level cache. Statistics are float32.
*/
#include "row_lanes.cuh"

namespace galago::cuda {

template <int V, class T>
__global__ void softmax_forward_kernel(const T* x, T* out, int64_t rows, int64_t D, int width) {
  const int64_t per_block = blockDim.x / width;
  const int64_t column = threadIdx.x % width * V, step = width * V;
  for (int64_t first = blockIdx.x * per_block; first < rows; first += gridDim.x * per_block) {
    const int64_t r = first + threadIdx.x / width;
    const int64_t end = r < rows ? D : 0;
    float v[V], top = -INFINITY, sum = 0;
    for (int64_t d = column; d < end; d += step) {
      load_columns(x + r * D + d, v);
#pragma unroll
      for (int i = 0; i < V; i++) top = fmaxf(top, v[i]);
    }
    top = row_max(top, width);
    if (top == -INFINITY) top = 0;
    for (int64_t d = column; d < end; d += step) {
      load_columns(x + r * D + d, v);
#pragma unroll
      for (int i = 0; i < V; i++) sum += expf(v[i] - top);
    }
    sum = row_sum(sum, width);
    const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
    for (int64_t d = column; d < end; d += step) {
      load_columns(x + r * D + d, v);
#pragma unroll
      for (int i = 0; i < V; i++) v[i] = expf(v[i] - top) * inverse;
      store_columns(out + r * D + d, v);
    }
  }
}

template <int V, class T>
__global__ void softmax_backward_kernel(const T* out, const T* dout, T* dx, int64_t rows, int64_t D, int width) {
  const int64_t per_block = blockDim.x / width;
  const int64_t column = threadIdx.x % width * V, step = width * V;
  for (int64_t first = blockIdx.x * per_block; first < rows; first += gridDim.x * per_block) {
    const int64_t r = first + threadIdx.x / width;
    const int64_t end = r < rows ? D : 0;
    float p[V], g[V], delta = 0;
    for (int64_t d = column; d < end; d += step) {
      load_columns(out + r * D + d, p);
      load_columns(dout + r * D + d, g);
#pragma unroll
      for (int i = 0; i < V; i++) delta += p[i] * g[i];
    }
    delta = row_sum(delta, width);
    for (int64_t d = column; d < end; d += step) {
      load_columns(out + r * D + d, p);
      load_columns(dout + r * D + d, g);
#pragma unroll
      for (int i = 0; i < V; i++) g[i] = p[i] * (g[i] - delta);
      store_columns(dx + r * D + d, g);
    }
  }
}

// ---- launchers

void softmax_forward(const Tensor& x, Tensor& out) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t rows = x.rows(), D = x.columns();
    const T* px = x.data<T>();
    T* po = out.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          const int width = threads_for(D, V), per_block = row_block / width;
          launch(softmax_forward_kernel<V, T>, grid_of((rows + per_block - 1) / per_block), row_block, 0, px, po, rows, D, width);
        },
        D, px, po);
  });
}

void softmax_backward(const Tensor& out, const Tensor& dout, Tensor& dx) {
  dispatch_float(out.dtype, [&]<class T>() {
    const int64_t rows = out.rows(), D = out.columns();
    const T *po = out.data<T>(), *pd = dout.data<T>();
    T* pdx = dx.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          const int width = threads_for(D, V), per_block = row_block / width;
          launch(softmax_backward_kernel<V, T>, grid_of((rows + per_block - 1) / per_block), row_block, 0, po, pd, pdx, rows, D, width);
        },
        D, po, pd, pdx);
  });
}

}  // namespace galago::cuda
