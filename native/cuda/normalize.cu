/*
Rows of length 1: out = x / max(norm, eps), norm = |x|; dx = (dout - out dot(out, dout)) / norm, or dout / eps up to eps.
Bound by bytes: a group of lanes (a block for long rows) reads its row twice, the second time from the first-level cache.
Sums, norm and the products are float32; norm (float32) is saved for backward.
*/
#include "row_lanes.cuh"

namespace galago::cuda {

template <int V, class T>
__global__ void normalize_forward_kernel(const T* x, T* out, float* norm, int64_t rows, int64_t D, int width, float eps) {
  const int64_t per_block = blockDim.x / width;
  const int64_t column = threadIdx.x % width * V, step = width * V;
  for (int64_t first = blockIdx.x * per_block; first < rows; first += gridDim.x * per_block) {
    const int64_t r = first + threadIdx.x / width;
    const int64_t end = r < rows ? D : 0;
    float v[V], sum = 0;
    for (int64_t d = column; d < end; d += step) {
      load_columns(x + r * D + d, v);
#pragma unroll
      for (int i = 0; i < V; i++) sum += v[i] * v[i];
    }
    const float length = sqrtf(row_sum(sum, width)), inverse = 1.0f / fmaxf(length, eps);
    if (r < rows && column == 0) norm[r] = length;
    for (int64_t d = column; d < end; d += step) {
      load_columns(x + r * D + d, v);
#pragma unroll
      for (int i = 0; i < V; i++) v[i] *= inverse;
      store_columns(out + r * D + d, v);
    }
  }
}

template <int V, class T>
__global__ void normalize_backward_kernel(const T* out, const float* norm, const T* dout, T* dx, int64_t rows, int64_t D, int width,
                                          float eps) {
  const int64_t per_block = blockDim.x / width;
  const int64_t column = threadIdx.x % width * V, step = width * V;
  for (int64_t first = blockIdx.x * per_block; first < rows; first += gridDim.x * per_block) {
    const int64_t r = first + threadIdx.x / width;
    const int64_t end = r < rows ? D : 0;
    const float length = r < rows ? norm[r] : 1.0f, inverse = 1.0f / fmaxf(length, eps);
    float y[V], g[V], along = 0;
    for (int64_t d = column; d < end; d += step) {
      load_columns(out + r * D + d, y);
      load_columns(dout + r * D + d, g);
#pragma unroll
      for (int i = 0; i < V; i++) along += y[i] * g[i];
    }
    along = row_sum(along, width);
    if (!(length > eps)) along = 0;  // the divisor is a constant
    for (int64_t d = column; d < end; d += step) {
      load_columns(out + r * D + d, y);
      load_columns(dout + r * D + d, g);
#pragma unroll
      for (int i = 0; i < V; i++) g[i] = inverse * (g[i] - y[i] * along);
      store_columns(dx + r * D + d, g);
    }
  }
}

// ---- launchers

void normalize_forward(const Tensor& x, Tensor& out, Tensor& norm, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t rows = x.rows(), D = x.columns();
    const T* px = x.data<T>();
    T* po = out.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          const int width = threads_for(D, V), per_block = row_block / width;
          launch(normalize_forward_kernel<V, T>, grid_of((rows + per_block - 1) / per_block), row_block, 0, px, po, norm.data<float>(),
                 rows, D, width, float(eps));
        },
        D, px, po);
  });
}

void normalize_backward(const Tensor& out, const Tensor& norm, const Tensor& dout, Tensor& dx, double eps) {
  dispatch_float(out.dtype, [&]<class T>() {
    const int64_t rows = out.rows(), D = out.columns();
    const T *po = out.data<T>(), *pd = dout.data<T>();
    T* pdx = dx.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          const int width = threads_for(D, V), per_block = row_block / width;
          launch(normalize_backward_kernel<V, T>, grid_of((rows + per_block - 1) / per_block), row_block, 0, po, norm.data<float>(), pd,
                 pdx, rows, D, width, float(eps));
        },
        D, po, pd, pdx);
  });
}

}  // namespace galago::cuda
