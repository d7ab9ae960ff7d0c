/*
Cosine of each item's vector d with the rows h_t of its history: s_t = d.h_t / (max(|d|, eps) max(|h_t|, eps)), 0 where masked.
With unit vectors u = d/|d|, w = h/|h|: dd = sum_t dout_t (w_t - s_t u) / |d| and dh_t = dout_t (u - s_t w_t) / |h_t|; below eps the
divisor is a constant.

A block owns an item, a group of lanes a row of its history. Backward first finds dh_t and the factor of h_t in dd, kept in scratch
memory (T floats), then sums the rows, which the second-level cache still holds, in a fixed order. s_t is computed again in
float32: the stored one may be bfloat16, and w - s u cancels where the vectors are parallel. Shared memory: 512 bytes per column
that a thread loads at a time.
*/
#include "segment_rows.cuh"

namespace galago::cuda {

// Sum over a row of a_d b_d: the share of this thread.
template <int V, class T>
__device__ __forceinline__ float partial_dot(const T* a, const T* b, int64_t from, int64_t to, int64_t step) {
  float x[V], y[V], sum = 0;
  for (int64_t d = from; d < to; d += step) {
    load_columns(a + d, x);
    load_columns(b + d, y);
#pragma unroll
    for (int i = 0; i < V; i++) sum += x[i] * y[i];
  }
  return sum;
}

template <int V, class T>
__global__ void cosine_similarity_forward_kernel(const T* d, const T* h, Offsets offsets, const int32_t* mask, T* out, int64_t D, int width,
                                                 float eps) {
  const int rows = segment_block / width, row = int(threadIdx.x) / width;
  const int64_t column = int(threadIdx.x) % width * V, step = width * V;
  for (int64_t b = blockIdx.x; b < offsets.segments; b += gridDim.x) {
    const Segment s = offsets[b];
    const T* vector = d + b * D;
    const float inverse = 1.0f / fmaxf(sqrtf(row_sum(partial_dot<V>(vector, vector, column, D, step), width)), eps);
    for (int64_t first = s.begin; first < s.end; first += rows) {
      const int64_t t = first + row, end = t < s.end ? D : 0;
      const float product = row_sum(partial_dot<V>(vector, h + t * D, column, end, step), width);
      const float length = sqrtf(row_sum(partial_dot<V>(h + t * D, h + t * D, column, end, step), width));
      if (t < s.end && column == 0) out[t] = from_float<T>(mask && mask[t] < 0 ? 0.0f : product * inverse / fmaxf(length, eps));
    }
  }
  offsets.zero_outside(out, 1);
}

template <int V, class T>
__global__ void cosine_similarity_backward_kernel(const T* d, const T* h, Offsets offsets, const int32_t* mask, const T* dout, T* dd, T* dh,
                                                  float* factor, int64_t D, int width, float eps) {
  const int rows = segment_block / width, row = int(threadIdx.x) / width;
  const int64_t column = int(threadIdx.x) % width * V, step = width * V;
  for (int64_t b = blockIdx.x; b < offsets.segments; b += gridDim.x) {
    const Segment s = offsets[b];
    const T* vector = d + b * D;
    const float length = sqrtf(row_sum(partial_dot<V>(vector, vector, column, D, step), width)), inverse = 1.0f / fmaxf(length, eps);
    float along = 0;  // sum of dout s: the part of dd along d
    for (int64_t first = s.begin; first < s.end; first += rows) {
      const int64_t t = first + row, end = t < s.end ? D : 0;
      const T* other = h + t * D;
      const float product = row_sum(partial_dot<V>(vector, other, column, end, step), width);
      const float other_length = sqrtf(row_sum(partial_dot<V>(other, other, column, end, step), width));
      const float other_inverse = 1.0f / fmaxf(other_length, eps);
      const float g = t < s.end && !(mask && mask[t] < 0) ? to_float(dout[t]) : 0.0f;
      const float cosine = product * inverse * other_inverse, cross = g * inverse * other_inverse;
      const float own = other_length > eps ? g * cosine * other_inverse * other_inverse : 0.0f;
      if (t < s.end && column == 0) factor[t] = cross, along += g * cosine;
      float x[V], y[V];
      for (int64_t c = column; dh && c < end; c += step) {
        load_columns(vector + c, x);
        load_columns(other + c, y);
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = cross * x[i] - own * y[i];
        store_columns(dh + t * D + c, x);
      }
    }
    along = block_sum(along);  // and the factors of all rows are written
    const float own = length > eps ? along * inverse * inverse : 0.0f;
    if (dd)
      segment_sums<V>(
          s, D, width, [=](int64_t t) { return h + t * D; }, [=](int64_t t) { return factor[t]; },
          [=](int64_t c, float(&sums)[V]) {
            float x[V];
            load_columns(vector + c, x);
#pragma unroll
            for (int i = 0; i < V; i++) sums[i] -= own * x[i];
            store_columns(dd + b * D + c, sums);
          });
  }
  if (dh) offsets.zero_outside(dh, D);
}

// ---- launchers

void cosine_similarity_forward(const Tensor& d, const Tensor& h, const Tensor& offsets, const Tensor& mask, Tensor& out, double eps) {
  dispatch_float(d.dtype, [&]<class T>() {
    const int64_t D = d.columns();
    const Offsets items = offsets_of("cosineSimilarity", offsets, h.shape[0]);
    const T *pd = d.data<T>(), *ph = h.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          launch(cosine_similarity_forward_kernel<V, T>, grid_of(items.segments + 1), segment_block, 0, pd, ph, items, mask.data<int32_t>(),
                 out.data<T>(), D, lanes_for(D, V), float(eps));
        },
        D, pd, ph);
  });
}

void cosine_similarity_backward(const Tensor& d, const Tensor& h, const Tensor& offsets, const Tensor& mask, const Tensor& /*out*/,
                                const Tensor& dout, Tensor& dd, Tensor& dh, double eps) {
  dispatch_float(d.dtype, [&]<class T>() {
    const int64_t D = d.columns();
    const Offsets items = offsets_of("cosineSimilarity", offsets, h.shape[0]);
    const Scratch<float> factor(h.shape[0]);
    const T *pd = d.data<T>(), *ph = h.data<T>();
    T *pdd = dd.data<T>(), *pdh = dh.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          launch(cosine_similarity_backward_kernel<V, T>, grid_of(items.segments + 1), segment_block, 0, pd, ph, items,
                 mask.data<int32_t>(), dout.data<T>(), pdd, pdh, factor.data(), D, lanes_for(D, V), float(eps));
        },
        D, pd, ph, pdd, pdh);
  });
}

}  // namespace galago::cuda
