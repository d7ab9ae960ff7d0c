/*
Sums along rows, K of them in one pass: out[k][r] = scale * sum over i < n of term(r * n + i)[k].

A warp takes a row of up to 1024 elements, a block a chunk of 8192 elements of a longer one. More chunks than one leave float32 partials,
(K, rows, chunks), which are summed in the same way: the order follows from the shape alone.
*/
#pragma once
#include "reduce.cuh"

namespace galago::cuda {

constexpr int64_t row_chunk = 8192;

template <int K, class T>
struct RowOutputs {
  T* to[K];
};

// A term adds its K values to `sums`. This one reads what an earlier pass left, K arrays `stride` apart.
template <int K, class T>
struct ArrayTerm {
  const T* x;
  int64_t stride;
  __device__ void operator()(int64_t i, float (&sums)[K]) const {
#pragma unroll
    for (int k = 0; k < K; k++) sums[k] += to_float(x[k * stride + i]);
  }
};

template <int K, class T, class Term>
__global__ void __launch_bounds__(256) short_row_sums_kernel(Term term, int64_t rows, int64_t n, RowOutputs<K, T> out, float scale) {
  for (int64_t row = int64_t(blockIdx.x) * 8 + warp(); row < rows; row += int64_t(gridDim.x) * 8) {
    float sums[K] = {};
#pragma unroll 4
    for (int64_t i = lane(); i < n; i += warp_size) term(row * n + i, sums);
#pragma unroll
    for (int k = 0; k < K; k++) {
      const float total = warp_sum(sums[k]);
      if (lane() == 0) out.to[k][row] = from_float<T>(scale * total);
    }
  }
}

template <int K, class T, class Term>
__global__ void __launch_bounds__(256)
    long_row_sums_kernel(Term term, int64_t rows, int64_t n, int64_t chunks, RowOutputs<K, T> out, float scale) {
  for (int64_t piece = blockIdx.x; piece < rows * chunks; piece += gridDim.x) {
    const int64_t row = piece / chunks, begin = piece % chunks * row_chunk, end = begin + row_chunk < n ? begin + row_chunk : n;
    float sums[K] = {};
#pragma unroll 8
    for (int64_t i = begin + threadIdx.x; i < end; i += 256) term(row * n + i, sums);
#pragma unroll
    for (int k = 0; k < K; k++) {
      const float total = block_sum(sums[k]);
      if (threadIdx.x == 0) out.to[k][piece] = from_float<T>(scale * total);
    }
  }
}

// A sum of no elements is 0.
template <int K, class T, class Term>
void row_sums(const Term& term, int64_t rows, int64_t n, const RowOutputs<K, T>& out, float scale = 1) {
  if (n <= 1024) {
    launch(short_row_sums_kernel<K, T, Term>, grid_of((rows + 7) / 8), 256, 0, term, rows, n, out, scale);
    return;
  }
  const int64_t chunks = (n + row_chunk - 1) / row_chunk;
  if (chunks == 1) {
    launch(long_row_sums_kernel<K, T, Term>, grid_of(rows), 256, 0, term, rows, n, chunks, out, scale);
    return;
  }
  const int64_t stride = rows * chunks;
  const Scratch<float> partials(K * stride);
  RowOutputs<K, float> to;
  for (int k = 0; k < K; k++) to.to[k] = partials.data() + k * stride;
  launch(long_row_sums_kernel<K, float, Term>, grid_of(stride), 256, 0, term, rows, n, chunks, to, 1.0f);
  row_sums(ArrayTerm<K, float>{partials.data(), stride}, rows, chunks, out, scale);
}

}  // namespace galago::cuda
