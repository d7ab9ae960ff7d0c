/*
infoNce on tensor cores: the passes of info_nce.cu for bfloat16 rows of up to 256 elements. Products are mma.sync with float32 sums;
scores, masks, sums and the gradient of the scores are float32, and the latter is rounded to bfloat16 once, as the left side of the
second product. D is padded with zeros to WIDTH in shared memory only.

A tile is 128 elements of the own side by 64 of the other. Own rows stay in shared memory for a whole piece, tiles of the other side
arrive by cp.async, the next one under the work on this one. Scores: 8 warps as 4 x 2, 32 x 32 each. Second product, gradient (128 x 64)
times other (64 x WIDTH): 8 warps as 2 x 4, 64 x WIDTH / 4 each, its left side through shared memory, its right side the tile that is
already there, read transposed.

Shared memory, all swizzled: own 256 WIDTH bytes, other 2 x 128 WIDTH, backward 16 KB of score gradients: 144 KB at WIDTH 256. Where a
block may not have as much, info_nce.cu takes over. Registers (sm_80 and sm_90, no spills): forward 114 to 158, backward 164, 197, 254
at WIDTH 64, 128, 256: the sums alone are WIDTH / 2, hence loops that are not unrolled and scores finished two columns at a time.
*/
#include "async_copy.cuh"
#include "info_nce.cuh"
#include "mma.cuh"

namespace galago::cuda {

constexpr int mma_threads = 256;
constexpr int mma_other = score_tile;

// Where element (row, column) of a tile of rows of WIDTH elements lies.
template <int WIDTH>
__device__ __forceinline__ int place_in_tile(int row, int chunk) {
  return swizzled<WIDTH / 8>(row, chunk) * 8;
}

// Starts the copies of rows first .. first + ROWS - 1 of x (count, D); zero outside.
template <int ROWS, int WIDTH>
__device__ __forceinline__ void start_copy(const Side<bfloat16>& side, int first, int D, bfloat16* tile) {
  constexpr int chunks = WIDTH / 8;
#pragma unroll 1
  for (int at = int(threadIdx.x); at < ROWS * chunks; at += mma_threads) {
    const int row = at / chunks, chunk = at % chunks;
    const bool inside = first + row < side.count && chunk * 8 < D;
    const bfloat16* from = inside ? side.x + int64_t(first + row) * D + chunk * 8 : side.x;
    copy_async<16>(tile + place_in_tile<WIDTH>(row, chunk), from, inside ? 16 : 0);
  }
}

// Dot products of this warp's 32 x 32 pairs: row 16 (r / 2) + 8 (r % 2) + lane / 4, column 8 (c / 2) + 2 (lane % 4) + c % 2.
template <int WIDTH>
__device__ __forceinline__ void warp_dot_products(const bfloat16* own, const bfloat16* other, float (&s)[4][8]) {
  const int own_row = warp() / 2 * 32 + lane() % 16, other_row = warp() % 2 * 32 + lane() / 16 * 8 + lane() % 8;
  float sums[2][4][4] = {};
#pragma unroll 2
  for (int k = 0; k < WIDTH / 16; k++) {
    uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int m = 0; m < 2; m++) load_matrices(a[m], own + place_in_tile<WIDTH>(own_row + 16 * m, 2 * k + lane() / 16));
#pragma unroll
    for (int n = 0; n < 2; n++) load_matrices(b[n], other + place_in_tile<WIDTH>(other_row + 16 * n, 2 * k + lane() / 8 % 2));
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const uint32_t right[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
        mma(sums[m][n], a[m], right);
      }
  }
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 8; c++) s[r][c] = sums[r / 2][c / 2][r % 2 * 2 + c % 2];
}

__device__ __forceinline__ int row_of_warp(int r) { return warp() / 2 * 32 + r / 2 * 16 + r % 2 * 8 + lane() / 4; }
__device__ __forceinline__ int column_of_warp(int c) { return warp() % 2 * 32 + c / 2 * 8 + lane() % 4 * 2 + c % 2; }

template <int WIDTH, bool COLUMNS>
__global__ void __launch_bounds__(mma_threads, WIDTH > 128 ? 1 : 2)
    info_nce_mma_forward_kernel(Side<bfloat16> rows, Side<bfloat16> columns, int D, Pieces pieces, int kinds, float scale,
                                float* positive_scores, LogSum* row_parts, LogSum* column_parts) {
  DYNAMIC_SHARED(bfloat16, own);
  bfloat16* const other = own + mma_own * WIDTH;
  SHARED(LogSum[4 * mma_other], column_sums);  // of each warp's 32 rows
  SHARED(LogSum[mma_own], row_sums);           // of the right half of the columns
  for (int64_t piece = blockIdx.x; piece < pieces.row_chunks * pieces.column_chunks; piece += gridDim.x) {
    const int64_t row_chunk = piece / pieces.column_chunks, column_chunk = piece % pieces.column_chunks;
    for (int tile = 0; tile < pieces.row_tiles; tile++) {
      const int first = int(row_chunk * pieces.row_tiles + tile) * mma_own;
      const int from = int(column_chunk * pieces.column_tiles) * mma_other;
      if (first >= rows.count) break;
      const auto i = [=](int r) { return first + row_of_warp(r); };
      LogSum sums[4] = {no_scores(), no_scores(), no_scores(), no_scores()};
      start_copy<mma_own, WIDTH>(rows, first, D, own);
      start_copy<mma_other, WIDTH>(columns, from, D, other);
      commit_copies();
      for (int t = 0; t < pieces.column_tiles; t++) {
        const int begin = from + t * mma_other;
        if (begin >= columns.count) break;
        if (t + 1 < pieces.column_tiles)
          start_copy<mma_other, WIDTH>(columns, begin + mma_other, D, other + (t + 1) % 2 * (mma_other * WIDTH));
        commit_copies();
        wait_copies<1>();
        __syncthreads();
        const auto j = [=](int c) { return begin + column_of_warp(c); };
        float s[4][8];
        warp_dot_products<WIDTH>(own, other + t % 2 * (mma_other * WIDTH), s);
        const unsigned positive = finish_scores<4, 8>(rows, columns, kinds, scale, i, j, s);
#pragma unroll
        for (int r = 0; r < 4; r++) {
#pragma unroll
          for (int c = 0; c < 8; c++)
            if (positive >> (8 * r + c) & 1) {
              positive_scores[i(r)] = s[r][c];
              s[r][c] = -INFINITY;
            }
          sums[r].add(s[r]);
        }
        if constexpr (COLUMNS) {
#pragma unroll
          for (int c = 0; c < 8; c++) {
            const float of_rows[4] = {s[0][c], s[1][c], s[2][c], s[3][c]};
            const LogSum sum = log_sum_of_lanes(of_rows, 4);
            if (lane() < 4) column_sums[warp() / 2 * mma_other + column_of_warp(c)] = sum;
          }
          __syncthreads();
          const int column = begin + int(threadIdx.x);
          if (threadIdx.x < mma_other && column < columns.count) {
            LogSum* part = column_parts + row_chunk * columns.count + column;
            LogSum sum = tile == 0 ? no_scores() : *part;
            for (int w = 0; w < 4; w++) sum.merge(column_sums[w * mma_other + threadIdx.x]);
            *part = sum;
          }
        }
        __syncthreads();  // the tile is still being read
      }
      wait_copies<0>();
#pragma unroll
      for (int r = 0; r < 4; r++) {
        for (int offset = 1; offset < 4; offset *= 2) sums[r].merge(shuffle_xor(sums[r], offset));
        if (lane() % 4 == 0 && warp() % 2 == 1) row_sums[row_of_warp(r)] = sums[r];
      }
      __syncthreads();
#pragma unroll
      for (int r = 0; r < 4; r++)
        if (lane() % 4 == 0 && warp() % 2 == 0 && i(r) < rows.count) {
          sums[r].merge(row_sums[row_of_warp(r)]);
          row_parts[column_chunk * rows.count + i(r)] = sums[r];
        }
      __syncthreads();
    }
  }
}

template <int WIDTH>
__global__ void __launch_bounds__(mma_threads, 1)
    info_nce_mma_backward_kernel(Side<bfloat16> own_side, Side<bfloat16> other_side, int D, int splits, int split_tiles, int kinds,
                                 float scale, float* partial) {
  constexpr int fragments = WIDTH / 32;  // of 8 columns, in this warp's quarter of the gradient
  DYNAMIC_SHARED(bfloat16, own);
  bfloat16* const other = own + mma_own * WIDTH;
  bfloat16* const gradients = other + 2 * mma_other * WIDTH;  // (own, other)
  const int64_t pieces = int64_t(splits) * ((own_side.count + mma_own - 1) / mma_own);
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    const int split = int(piece % splits), first = int(piece / splits) * mma_own, from = split * split_tiles * mma_other;
    const auto i = [=](int r) { return first + row_of_warp(r); };
    float sums[4][fragments][4] = {};
    start_copy<mma_own, WIDTH>(own_side, first, D, own);
    start_copy<mma_other, WIDTH>(other_side, from, D, other);
    commit_copies();
    for (int t = 0; t < split_tiles; t++) {
      const int begin = from + t * mma_other;
      if (begin >= other_side.count) break;
      const bfloat16* tile = other + t % 2 * (mma_other * WIDTH);
      if (t + 1 < split_tiles) start_copy<mma_other, WIDTH>(other_side, begin + mma_other, D, other + (t + 1) % 2 * (mma_other * WIDTH));
      commit_copies();
      wait_copies<1>();
      __syncthreads();
      float s[4][8];
      warp_dot_products<WIDTH>(own, tile, s);
#pragma unroll
      for (int c = 0; c < 8; c += 2) {  // two columns at a time: few registers are left beside the sums
        const auto j = [=](int e) { return begin + column_of_warp(c + e); };
        float pair[4][2];
#pragma unroll
        for (int r = 0; r < 4; r++) pair[r][0] = s[r][c], pair[r][1] = s[r][c + 1];
        const unsigned positive = finish_scores<4, 2>(own_side, other_side, kinds, scale, i, j, pair);
        score_gradient<4, 2>(own_side, other_side, positive, i, j, pair);
        const int column = column_of_warp(c);
#pragma unroll
        for (int r = 0; r < 4; r++) {
          bfloat16* to = gradients + place_in_tile<mma_other>(row_of_warp(r), column / 8) + column % 8;
          *reinterpret_cast<uint32_t*>(to) = pack_bfloat16(pair[r][0], pair[r][1]);
        }
      }
      __syncthreads();
      const int row = warp() / 4 * 64 + lane() % 16, chunk = warp() % 4 * fragments + lane() / 16;
#pragma unroll 1
      for (int k = 0; k < mma_other / 16; k++) {
        uint32_t a[4][4];
#pragma unroll
        for (int m = 0; m < 4; m++) load_matrices(a[m], gradients + place_in_tile<mma_other>(row + 16 * m, 2 * k + lane() / 16));
#pragma unroll
        for (int n = 0; n < fragments; n += 2) {
          uint32_t b[4];
          load_matrices<true>(b, tile + place_in_tile<WIDTH>(16 * k + lane() % 16, chunk + n));
          const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
          for (int m = 0; m < 4; m++) {
            mma(sums[m][n], a[m], left);
            mma(sums[m][n + 1], a[m], right);
          }
        }
      }
      __syncthreads();  // tile and gradients are still being read
    }
    wait_copies<0>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
      for (int n = 0; n < fragments; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int element = first + warp() / 4 * 64 + 16 * m + e / 2 * 8 + lane() / 4;
          const int d = (warp() % 4 * fragments + n) * 8 + lane() % 4 * 2 + e % 2;
          if (element < own_side.count && d < D) partial[(int64_t(split) * own_side.count + element) * D + d] = sums[m][n][e];
        }
  }
}

// ---- launchers

static int width_of(int64_t D) { return D <= 64 ? 64 : D <= 128 ? 128 : 256; }
static size_t shared_bytes(int width, bool backward) {
  return sizeof(bfloat16) * size_t((mma_own + 2 * mma_other) * width + (backward ? mma_own * mma_other : 0));
}

bool info_nce_mma_fits(int64_t D, const void* q, const void* k) {
  return D > 0 && D <= 256 && packed<bfloat16>(D, q, k) && shared_bytes(width_of(D), true) + 4096 <= size_t(shared_memory_limit());
}

// Calls body with the padded width of D.
template <class F>
static void dispatch_width(int D, F&& body) {
  switch (width_of(D)) {
    case 64: return body.template operator()<64>();
    case 128: return body.template operator()<128>();
    default: return body.template operator()<256>();
  }
}

void info_nce_mma_forward(const Side<bfloat16>& rows, const Side<bfloat16>& columns, int D, const Pieces& pieces, int kinds, float scale,
                          float* positive_scores, LogSum* row_parts, LogSum* column_parts) {
  dispatch_width(D, [&]<int WIDTH>() {
    const auto kernel = column_parts ? info_nce_mma_forward_kernel<WIDTH, true> : info_nce_mma_forward_kernel<WIDTH, false>;
    launch(kernel, grid_of(pieces.count()), mma_threads, shared_bytes(WIDTH, false), rows, columns, D, pieces, kinds, scale,
           positive_scores, row_parts, column_parts);
  });
}

void info_nce_mma_backward(const Side<bfloat16>& own, const Side<bfloat16>& other, int D, int splits, int split_tiles, int kinds,
                           float scale, float* partial) {
  dispatch_width(D, [&]<int WIDTH>() {
    launch(info_nce_mma_backward_kernel<WIDTH>, grid_of(splits * tiles_of(own.count, mma_own)), mma_threads, shared_bytes(WIDTH, true), own,
           other, D, splits, split_tiles, kinds, scale, partial);
  });
}

}  // namespace galago::cuda
