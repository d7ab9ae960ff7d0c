// Tiles of head values in shared memory and their products on the tensor cores: what the bfloat16 kernels of cross_attention are made of.
// A tile has rows of D values in swizzled chunks of 8. One warp computes 16 rows at a time; lane l holds, of 16 x 16 scores s[n][e],
// row l / 4 + 8 (e / 2), column 8 n + 2 (l % 4) + e % 2.
#pragma once
#include "async_copy.cuh"
#include "attention_items.cuh"
#include "exp2.cuh"
#include "mma.cuh"

namespace galago::cuda::attention {

constexpr int warps = 4, threads = warps * warp_size;

// 16 x 16 sums: two fragments side by side.
using Sums = float[2][4];

__device__ __forceinline__ int fragment_row(int e) { return lane() / 4 + e / 2 * 8; }
__device__ __forceinline__ int fragment_column(int n, int e) { return 8 * n + lane() % 4 * 2 + e % 2; }

// Starts the copy of rows 0 .. ROWS of x by THREADS threads, zero from row `count` on: the next row is another item's, where an infinity
// times a probability of zero would be NaN.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void copy_tile(bfloat16* tile, const bfloat16* x, int64_t stride, int count, int thread) {
  constexpr int chunks = D / 8, step = THREADS / chunks;
  const int chunk = thread % chunks;
  x += thread / chunks * stride + chunk * 8;
#pragma unroll 1
  for (int row = thread / chunks; row < ROWS; row += step, x += step * stride)
    copy_async<16>(tile + swizzled<chunks>(row, chunk) * 8, x, row < count ? 16 : 0);
}

// Rows row .. row + 15, values 16 step .. 16 step + 15, as the left side of a product.
template <int D>
__device__ __forceinline__ void load_left(uint32_t (&a)[4], const bfloat16* tile, int row, int step) {
  load_matrices(a, tile + swizzled<D / 8>(row + lane() % 16, 2 * step + lane() / 16) * 8);
}
// The same rows as columns of the right side, summed over the values: for two fragments of sums.
template <int D>
__device__ __forceinline__ void load_right(uint32_t (&b)[4], const bfloat16* tile, int row, int step) {
  load_matrices(b, tile + swizzled<D / 8>(row + lane() / 16 * 8 + lane() % 8, 2 * step + lane() / 8 % 2) * 8);
}
// The same rows as rows of the right side, summed over the rows.
template <int D>
__device__ __forceinline__ void load_right_rows(uint32_t (&b)[4], const bfloat16* tile, int row, int step) {
  load_matrices<true>(b, tile + swizzled<D / 8>(row + lane() % 16, 2 * step + lane() / 16) * 8);
}

__device__ __forceinline__ void multiply(Sums& sums, const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  mma(sums[0], a, low);
  mma(sums[1], a, high);
}

// Sums, rounded, as the left side of the next product.
__device__ __forceinline__ void round_left(uint32_t (&a)[4], const Sums& sums) {
#pragma unroll
  for (int n = 0; n < 2; n++) {
    a[2 * n] = pack_bfloat16(sums[n][0], sums[n][1]);
    a[2 * n + 1] = pack_bfloat16(sums[n][2], sums[n][3]);
  }
}
// The transpose of a left side.
__device__ __forceinline__ void transpose_left(uint32_t (&to)[4], const uint32_t (&a)[4]) {
  to[0] = transpose_matrix(a[0]);
  to[1] = transpose_matrix(a[2]);
  to[2] = transpose_matrix(a[1]);
  to[3] = transpose_matrix(a[3]);
}

// s[g] = rows (row ..) . columns (column + 16 g ..)
template <int D, int G>
__device__ __forceinline__ void scores(Sums (&s)[G], const bfloat16* rows, int row, const bfloat16* columns, int column) {
#pragma unroll
  for (int g = 0; g < G; g++)
#pragma unroll
    for (int i = 0; i < 8; i++) s[g][i / 4][i % 4] = 0;
  [[maybe_unused]] constexpr int at_once = D > 64 ? 1 : D / 16;  // more would need registers for addresses
#pragma unroll at_once
  for (int step = 0; step < D / 16; step++) {
    uint32_t a[4], b[4];
    load_left<D>(a, rows, row, step);
#pragma unroll
    for (int g = 0; g < G; g++) {
      load_right<D>(b, columns, column + 16 * g, step);
      multiply(s[g], a, b);
    }
  }
}

// acc += p . tile (rows row ..)
template <int D>
__device__ __forceinline__ void accumulate(Sums (&acc)[D / 16], const uint32_t (&p)[4], const bfloat16* tile, int row) {
#pragma unroll
  for (int step = 0; step < D / 16; step++) {
    uint32_t b[4];
    load_right_rows<D>(b, tile, row, step);
    multiply(acc[step], p, b);
  }
}

template <int D>
__device__ __forceinline__ void clear(Sums (&acc)[D / 16]) {
#pragma unroll
  for (int i = 0; i < D / 2; i++) acc[i / 8][i / 4 % 2][i % 4] = 0;
}

// x[r * stride + d] = factor[half of r] acc, for the rows r < count of 16; passes through the warp's own rows (row ..) of `tile`, so
// that stores are 16 bytes wide.
template <int D>
__device__ __forceinline__ void store_rows(bfloat16* x, int64_t stride, int count, const Sums (&acc)[D / 16], const float (&factor)[2],
                                           bfloat16* tile, int row) {
  constexpr int chunks = D / 8;
  __syncwarp();  // the rows are still being read
#pragma unroll
  for (int c = 0; c < chunks; c++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float* sums = acc[c / 2][c % 2] + 2 * half;
      bfloat16* to = tile + swizzled<chunks>(row + fragment_row(2 * half), c) * 8 + fragment_column(0, 0);
      *reinterpret_cast<uint32_t*>(to) = pack_bfloat16(factor[half] * sums[0], factor[half] * sums[1]);
    }
  __syncwarp();
#pragma unroll
  for (int i = lane(); i < 16 * chunks; i += warp_size) {
    const int r = i / chunks, c = i % chunks;
    if (r < count) store_pack(x + r * stride + c * 8, load_pack(tile + swizzled<chunks>(row + r, c) * 8));
  }
}
// The same in float32, directly: for partial sums.
template <int D>
__device__ __forceinline__ void store_rows(float* x, int64_t stride, int count, const Sums (&acc)[D / 16], float factor) {
#pragma unroll
  for (int i = 0; i < D / 2; i++) {
    const int r = fragment_row(i % 4), d = i / 8 * 16 + fragment_column(i / 4 % 2, i % 4);
    if (r < count) x[r * stride + d] = factor * acc[i / 8][i / 4 % 2][i % 4];
  }
}

// The maximum or sum over the 4 lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(full_mask, x, 1));
  return fmaxf(x, __shfl_xor_sync(full_mask, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(full_mask, x, 1);
  return x + __shfl_xor_sync(full_mask, x, 2);
}

// Online softmax of 16 rows: maximum in base 2 and, per lane, its part of the sum.
struct Softmax {
  float top[2] = {hidden, hidden}, sum[2] = {};

  // Scores in base 2 become probabilities over the maximum so far; `shrink` is what earlier sums are multiplied by.
  template <int G>
  __device__ __forceinline__ void operator()(Sums (&s)[G], float (&shrink)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = top[half];
#pragma unroll
      for (int g = 0; g < G; g++)
#pragma unroll
        for (int n = 0; n < 2; n++) largest = fmaxf(largest, fmaxf(s[g][n][2 * half], s[g][n][2 * half + 1]));
      largest = row_max(largest);
      const float base = largest == hidden ? 0.0f : largest;
      shrink[half] = fast_exp2(top[half] - base);
      top[half] = largest;
      float part = 0;
#pragma unroll
      for (int g = 0; g < G; g++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float& x = s[g][i / 2][2 * half + i % 2];
          x = fast_exp2(x - base);
          part += x;
        }
      sum[half] = sum[half] * shrink[half] + part;
    }
  }
};

}  // namespace galago::cuda::attention
