// What the kernels of infoNce share: the two sides of the score matrix, masks, and the shape of the work.
#pragma once
#include <algorithm>

#include "log_sum.cuh"
#include "row_lanes.cuh"

namespace galago::cuda {

// One side of the score matrix: the rows (q) or the columns (k). A kernel owns elements of one side and streams the other, so that
// exchanging the sides gives dk from the code of dq. Pointers that a side does not have are null.
template <class T>
struct Side {
  const T* x;  // (count, D)
  int count;
  const int32_t* groups;    // (kinds, count)
  const int32_t* positive;  // (count), of the rows: their column
  const float* log_q;       // (count), of the columns
  // for backward
  const float* factor;       // (count): dloss w / W
  const float* log_sum;      // (count): over all scores, the positive's among them; null where the loss does not normalize this side
  const float* at_positive;  // (count), of the rows: gradient at the positive
};

constexpr int score_tile = 64;  // rows and columns of a tile of scores on CUDA cores

// Makes scores of R x C dot products, of the elements i(r) of `own` and j(c) of `other`: scale s - log_q; minus infinity where a group
// hides the pair or where it lies outside. Bit r C + c of the result is set where the pair is a positive, which nothing hides.
template <int R, int C, class T, class I, class J>
__device__ __forceinline__ unsigned finish_scores(const Side<T>& own, const Side<T>& other, int kinds, float scale, I i, J j,
                                                  float (&s)[R][C]) {
  static_assert(R * C <= 32);
  unsigned hidden = 0, positive = 0;
  for (int g = 0; g < kinds; g++) {
    int32_t a[R], b[C];
#pragma unroll
    for (int r = 0; r < R; r++) a[r] = i(r) < own.count ? own.groups[int64_t(g) * own.count + i(r)] : -1;
#pragma unroll
    for (int c = 0; c < C; c++) b[c] = j(c) < other.count ? other.groups[int64_t(g) * other.count + j(c)] : -1;
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int c = 0; c < C; c++) hidden |= unsigned(a[r] >= 0 && a[r] == b[c]) << (r * C + c);
  }
  float own_bias[R], other_bias[C];
  int own_positive[R], other_positive[C];
#pragma unroll
  for (int r = 0; r < R; r++) {
    own_bias[r] = own.log_q && i(r) < own.count ? own.log_q[i(r)] : 0.0f;
    own_positive[r] = own.positive && i(r) < own.count ? own.positive[i(r)] : -1;
  }
#pragma unroll
  for (int c = 0; c < C; c++) {
    other_bias[c] = other.log_q && j(c) < other.count ? other.log_q[j(c)] : 0.0f;
    other_positive[c] = other.positive && j(c) < other.count ? other.positive[j(c)] : -1;
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int c = 0; c < C; c++) {
      const unsigned bit = 1u << (r * C + c);
      const bool inside = i(r) < own.count && j(c) < other.count;
      if (inside && (own_positive[r] == j(c) || other_positive[c] == i(r)))
        positive |= bit;
      else if (!inside || (hidden & bit))
        s[r][c] = -INFINITY;
      if (s[r][c] != -INFINITY) s[r][c] = scale * s[r][c] - own_bias[r] - other_bias[c];
    }
  return positive;
}

// Turns scores into the gradient of the loss by them: factor p, with the saved value at positives.
template <int R, int C, class T, class I, class J>
__device__ __forceinline__ void score_gradient(const Side<T>& own, const Side<T>& other, unsigned positive, I i, J j, float (&s)[R][C]) {
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int c = 0; c < C; c++) {
      float g = 0;
      if (positive >> (r * C + c) & 1) {
        g = own.at_positive ? own.at_positive[i(r)] : other.at_positive[j(c)];
      } else if (s[r][c] != -INFINITY) {
        if (own.log_sum) g += own.factor[i(r)] * expf(s[r][c] - own.log_sum[i(r)]);
        if (other.log_sum) g += other.factor[j(c)] * expf(s[r][c] - other.log_sum[j(c)]);
      }
      s[r][c] = g;
    }
}

inline int64_t tiles_of(int64_t count, int tile) { return (count + tile - 1) / tile; }

// Forward work: pieces of row_tiles x column_tiles tiles, piece = row chunk * column_chunks + column chunk. It follows from the shapes
// alone: enough pieces to fill a large GPU, and at most 128 row chunks if each of them keeps sums of all columns.
struct Pieces {
  int64_t row_tiles, column_tiles, row_chunks, column_chunks;

  Pieces(int64_t N, int64_t M, bool columns, int tile_rows) {
    const auto split = [](int64_t tiles, int64_t chunks, int64_t& per_chunk, int64_t& count) {
      per_chunk = std::max<int64_t>(1, (tiles + chunks - 1) / chunks);
      count = (tiles + per_chunk - 1) / per_chunk;
    };
    split(tiles_of(N, tile_rows), columns ? 128 : tiles_of(N, tile_rows) + 1, row_tiles, row_chunks);
    split(tiles_of(M, score_tile), std::max<int64_t>(1, 1024 / std::max<int64_t>(1, row_chunks)), column_tiles, column_chunks);
  }
  int64_t count() const { return row_chunks * column_chunks; }
};

// Backward work: the other side is cut into `splits` parts whose sums are added in order, so that few rows still fill a large GPU.
inline int64_t splits_of(int64_t pieces, int64_t other_tiles) {
  return std::clamp<int64_t>(512 / std::max<int64_t>(1, pieces), 1, std::clamp<int64_t>(other_tiles, 1, 16));
}

// ---- tensor cores (info_nce_mma.cu): bfloat16 rows of up to 256 elements, a multiple of 8

constexpr int mma_own = 128;  // elements of the own side in a tile; the other side has score_tile

bool info_nce_mma_fits(int64_t D, const void* q, const void* k);
void info_nce_mma_forward(const Side<bfloat16>& rows, const Side<bfloat16>& columns, int D, const Pieces& pieces, int kinds, float scale,
                          float* positive_scores, LogSum* row_parts, LogSum* column_parts);
void info_nce_mma_backward(const Side<bfloat16>& own, const Side<bfloat16>& other, int D, int splits, int split_tiles, int kinds,
                           float scale, float* partial);

// ---- listed negatives (info_nce_sampled.cu). positive (N), terms as in Side.

void info_nce_sampled_forward(const Tensor& q, const Tensor& k, const int32_t* positive, const Tensor& negatives, const float* log_q,
                              float* positive_scores, float* row_log_sums, double scale);
void info_nce_sampled_backward(const Tensor& q, const Tensor& k, const int32_t* positive, const Tensor& negatives, const float* log_q,
                               const float* factor, const float* log_sum, const float* at_positive, Tensor& dq, Tensor& dk, double scale);

}  // namespace galago::cuda
