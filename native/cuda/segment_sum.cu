/*
Weighted sums or means of the rows of jagged data: out_b = share_b sum_i w_i x_i, share_b = 1, or 1 / (rows of b) for means.
Backward: dx_i = share_b w_i dout_b, dw_i = share_b dot(dout_b, x_i), zero for rows of no segment. Bound by bytes, x is read once.
A block owns a segment, so nothing is added across blocks. Shared memory: 512 bytes per column that a thread loads at a time.
*/
#include "segment_rows.cuh"

namespace galago::cuda {

__device__ __forceinline__ float share_of(Segment s, bool mean) { return mean && s.end > s.begin ? 1.0f / float(s.end - s.begin) : 1.0f; }

template <int V, class T>
__global__ void segment_sum_forward_kernel(const T* x, Offsets offsets, const T* weights, T* out, int64_t D, int width, bool mean) {
  for (int64_t b = blockIdx.x; b < offsets.segments; b += gridDim.x) {
    const Segment s = offsets[b];
    const float share = share_of(s, mean);
    segment_sums<V>(
        s, D, width, [=](int64_t i) { return x + i * D; }, [=](int64_t i) { return weights ? to_float(weights[i]) : 1.0f; },
        [=](int64_t d, float(&sums)[V]) {
#pragma unroll
          for (int k = 0; k < V; k++) sums[k] *= share;
          store_columns(out + b * D + d, sums);
        });
  }
}

template <int V, class T>
__global__ void segment_sum_backward_kernel(const T* x, Offsets offsets, const T* weights, const T* dout, T* dx, T* dweights, int64_t D,
                                            int width, bool mean) {
  const int rows = segment_block / width, row = int(threadIdx.x) / width;
  const int64_t column = int(threadIdx.x) % width * V, step = width * V;
  for (int64_t b = blockIdx.x; b < offsets.segments; b += gridDim.x) {
    const Segment s = offsets[b];
    const float share = share_of(s, mean);
    for (int64_t first = s.begin; first < s.end; first += rows) {
      const int64_t i = first + row, end = i < s.end ? D : 0;
      const float w = share * (weights && i < s.end ? to_float(weights[i]) : 1.0f);
      float g[V], v[V], along = 0;
      for (int64_t d = column; d < end; d += step) {
        load_columns(dout + b * D + d, g);
        if (dweights) {
          load_columns(x + i * D + d, v);
#pragma unroll
          for (int k = 0; k < V; k++) along += g[k] * v[k];
        }
#pragma unroll
        for (int k = 0; k < V; k++) g[k] *= w;
        if (dx) store_columns(dx + i * D + d, g);
      }
      along = row_sum(along, width);
      if (dweights && i < s.end && column == 0) dweights[i] = from_float<T>(share * along);
    }
  }
  if (dx) offsets.zero_outside(dx, D);
  if (dweights) offsets.zero_outside(dweights, 1);
}

// ---- launchers

void segment_sum_forward(const Tensor& x, const Tensor& offsets, const Tensor& weights, Tensor& out, bool mean) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t D = x.columns();
    const Offsets segments = offsets_of("segmentSum", offsets, x.shape[0]);
    const T* px = x.data<T>();
    T* po = out.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          launch(segment_sum_forward_kernel<V, T>, grid_of(segments.segments), segment_block, 0, px, segments, weights.data<T>(), po, D,
                 lanes_for(D, V), mean);
        },
        D, px, po);
  });
}

void segment_sum_backward(const Tensor& x, const Tensor& offsets, const Tensor& weights, const Tensor& dout, Tensor& dx, Tensor& dweights,
                          bool mean) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t D = x.columns();
    const Offsets segments = offsets_of("segmentSum", offsets, x.shape[0]);
    const T *px = x.data<T>(), *pd = dout.data<T>();
    T* pdx = dx.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          launch(segment_sum_backward_kernel<V, T>, grid_of(segments.segments + 1), segment_block, 0, px, segments, weights.data<T>(), pd,
                 pdx, dweights.data<T>(), D, lanes_for(D, V), mean);
        },
        D, px, pd, pdx);
  });
}

}  // namespace galago::cuda
