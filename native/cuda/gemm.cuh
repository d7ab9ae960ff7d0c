/*
Matrix products: out = epilogue(op(A) op(B)), row-major, for a batch of matrices.

  gemm(Product<T>{...})   T = float: real float32 multiply-adds. T = bfloat16: tensor cores where rows are whole 16-byte pieces,
                          else the float32 kernel on bfloat16 storage. Sums are float32; one rounding per stored value.

A block computes a tile of out, 128 x 128 or (small problems) 64 x 64:
  float32   256 threads; tiles of 8 or 16 values of K in shared memory, two buffers; a thread owns 8 x 8 or 4 x 4 sums.
            34 KB or 18 KB shared; 128 or 98 registers.
  bfloat16  256 or 128 threads; tiles of 32 values of K, swizzled, in a ring of four stages filled by cp.async; a warp owns 64 x 32 or
            32 x 32 sums and reads its operands with ldmatrix, transposed by the read where K is not the contiguous dimension.
            64 KB or 32 KB shared; 128 registers, so two or four blocks per multiprocessor. No spills (sm_80, sm_90), which is why a
            block's piece of work lies in shared memory, and a fragment of A is read just before its products.
The finished sums go through shared memory, 64 rows at a time, so that epilogue and stores are the same for all kernels and whole lines
are written. After the steps of K may follow rank steps with a second pair of operands (loraLinear): the sum just goes on.

A long sum into few tiles (a weight gradient) is cut into chunks of K, each with partial sums of its own, added in chunk order by a second
kernel. Tile and chunks follow from the shapes alone, so results depend neither on the grid nor on the GPU.

An operand is a *source*: a small struct, passed by value, that says what lies at (row, column) of a matrix in memory:
  of_matrix(g)   the source of matrix g of the batch
  Quads          a thread's walk over it, four values at a time: see RowQuads
  Loader<...>    brings tiles into shared memory for the tensor cores: see AsyncLoader
Rows is the plain one; patchEmbedding brings its own, which makes its values out of pixels.
*/
#pragma once
#include <algorithm>

#include "activation.cuh"
#include "async_copy.cuh"
#include "mma.cuh"
#include "reduce.cuh"

namespace galago::cuda {

// One product as an op asks for it. Matrices are dense: a is (M, K), or (K, M) with transpose_a; b is (K, N), or (N, K) with transpose_b.
template <class T>
struct Product {
  int64_t M, N, K;
  const T *a, *b;
  T* out;
  bool transpose_a = false, transpose_b = false;
  int64_t batch = 1;
  float scale = 1;          // of the sums, before everything else
  bool accumulate = false;  // adds what out holds
  const T* bias = nullptr;  // (N)
  T* preactivation = nullptr;
  Activation activation = Activation::none;
  float* sums = nullptr;  // if set, receives the result in float32, and out stays as it is
  // rank steps: + op(a_rank) op(b_rank), laid out like a and b with `rank` in place of K; batch is then 1
  int64_t rank = 0;
  const T *a_rank = nullptr, *b_rank = nullptr;
};

template <class T>
void gemm(const Product<T>& product);  // instantiated in matmul.cu

// ---- four values at a time

template <class T>
struct alignas(4 * sizeof(T)) Quad {
  T v[4];
};

// The first `count` (at most 4) values, zeros behind them. `whole`: quads are aligned, and four values exist.
template <class T>
__device__ __forceinline__ void load_quad(const T* from, int64_t count, bool whole, float (&v)[4]) {
  if (whole) {
    const Quad<T> quad = *reinterpret_cast<const Quad<T>*>(from);
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = to_float(quad.v[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = k < count ? to_float(from[k]) : 0.0f;
  }
}

template <class T>
__device__ __forceinline__ void store_quad(T* to, int64_t count, bool whole, const float (&v)[4]) {
  if (whole) {
    Quad<T> quad;
#pragma unroll
    for (int k = 0; k < 4; k++) quad.v[k] = from_float<T>(v[k]);
    *reinterpret_cast<Quad<T>*>(to) = quad;
  } else {
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (k < count) to[k] = from_float<T>(v[k]);
  }
}

template <class T, class... Pointers>
bool whole_quads(int64_t columns, Pointers... pointers) {
  return columns % 4 == 0 && ((reinterpret_cast<uintptr_t>(pointers) % sizeof(Quad<T>) == 0) && ...);
}

// ---- epilogue

__device__ __forceinline__ void activate_quad(Activation kind, float (&v)[4]) {
  const auto apply = [&]<Activation KIND>() {
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = activate<KIND>(v[k]);
  };
  switch (kind) {
    case Activation::none: return;
    case Activation::relu: return apply.template operator()<Activation::relu>();
    case Activation::gelu: return apply.template operator()<Activation::gelu>();
    case Activation::silu: return apply.template operator()<Activation::silu>();
    case Activation::sigmoid: return apply.template operator()<Activation::sigmoid>();
    case Activation::tanh: return apply.template operator()<Activation::tanh>();
  }
}

// What becomes of finished sums. Rows count through the whole batch.
template <class T>
struct Epilogue {
  T* out;
  const T* bias;
  T* preactivation;
  float* sums;
  int64_t columns;
  float scale;
  Activation activation;
  bool accumulate, quads;

  __device__ void operator()(int64_t row, int64_t column, float (&v)[4]) const {
    const int64_t at = row * columns + column, count = columns - column;
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] *= scale;
    if (accumulate) {
      float held[4];
      if (sums)
        load_quad(sums + at, count, quads, held);
      else
        load_quad(out + at, count, quads, held);
#pragma unroll
      for (int k = 0; k < 4; k++) v[k] += held[k];
    }
    if (bias) {
      float addend[4];
      load_quad(bias + column, count, quads, addend);
#pragma unroll
      for (int k = 0; k < 4; k++) v[k] += addend[k];
    }
    if (preactivation) store_quad(preactivation + at, count, quads, v);
    activate_quad(activation, v);
    if (sums)
      store_quad(sums + at, count, quads, v);
    else
      store_quad(out + at, count, quads, v);
  }
};

// ---- sources

template <class T>
struct RowQuads;
template <bool K_CONTIGUOUS, int TILE, int TILE_K, int THREADS>
struct AsyncLoader;

// A matrix as it lies in memory.
template <class T>
struct Rows {
  const T* data;
  int64_t rows, columns;
  bool quads;

  Rows(const T* data, int64_t rows, int64_t columns) : data(data), rows(rows), columns(columns), quads(whole_quads<T>(columns, data)) {}

  __device__ Rows of_matrix(int64_t g) const {
    Rows matrix = *this;
    matrix.data += g * rows * columns;
    return matrix;
  }

  using Quads = RowQuads<T>;
  template <bool K_CONTIGUOUS, int TILE, int TILE_K, int THREADS>
  using Loader = AsyncLoader<K_CONTIGUOUS, TILE, TILE_K, THREADS>;
  bool fits_tensor_cores() const { return sizeof(T) == 2 && columns % 8 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0; }
};

// A chunk has at most 2^20 tiles of K, so what is left of a longer matrix need not be known exactly.
__device__ __forceinline__ int left_from(int64_t position, int64_t size) { return int(min(size - position, int64_t(1) << 30)); }

// The walk of a thread over Rows: begins at (row, column), a multiple of four, and moves on in one direction.
template <class T>
struct RowQuads {
  const T* from;
  int64_t stride;
  int rows_left, columns_left;
  bool quads;

  __device__ __forceinline__ void start(const Rows<T>& source, int64_t row, int64_t column) {
    from = source.data + row * source.columns + column;
    stride = source.columns;
    rows_left = left_from(row, source.rows);
    columns_left = left_from(column, source.columns);
    quads = source.quads;
  }
  // Zeros outside the matrix.
  __device__ __forceinline__ void load(float (&v)[4]) const {
    const int count = rows_left > 0 ? columns_left : 0;
    load_quad(from, count, quads && count > 0, v);
  }
  __device__ __forceinline__ void move_columns(int n) { from += n, columns_left -= n; }
  __device__ __forceinline__ void move_rows(int n) { from += n * stride, rows_left -= n; }
};

// ---- pieces of work

// What a kernel computes. Of a source, rows are M (or N) and columns K when K is contiguous, else the other way round.
template <class A, class B, class T>
struct Work {
  A a, a_rank;
  B b, b_rank;
  Epilogue<T> epilogue;
  int64_t M, N;
  int batch;
  int chunks = 1;
  int64_t chunk_steps = 0;  // tiles of K per chunk, at most 2^20; the last chunk takes the rank steps
  int64_t steps = 0;        // tiles of K in all, without the rank steps
  int rank_steps = 0;
  int64_t tiles_m = 0, tiles_n = 0;
};

// One tile of out over the steps of one chunk.
struct Piece {
  int tile_m, tile_n;
  int slice;             // matrix of the batch, plus batch times the chunk
  int steps, all_steps;  // tiles of K; with the rank steps behind them
};

// Chunks outside, matrices inside them; tiles in groups of eight rows of tiles, so that concurrent blocks share operands in the L2 cache.
template <class W>
__device__ __forceinline__ Piece piece_of(const W& work, int64_t index) {
  constexpr int64_t group_rows = 8;
  const int64_t tiles = work.tiles_m * work.tiles_n, tile = index % tiles;
  const int64_t group = tile / (group_rows * work.tiles_n), inside = tile % (group_rows * work.tiles_n);
  const int64_t rows = min(group_rows, work.tiles_m - group * group_rows);
  Piece piece;
  piece.tile_m = int(group * group_rows + inside % rows);
  piece.tile_n = int(inside / rows);
  piece.slice = int(index / tiles);
  const int chunk = piece.slice / work.batch;
  const bool last = chunk + 1 == work.chunks;
  piece.steps = int(last ? work.steps - chunk * work.chunk_steps : work.chunk_steps);
  piece.all_steps = piece.steps + (last ? work.rank_steps : 0);
  return piece;
}

constexpr int stage_rows = 64, stage_padding = 8;

// Rows [first, first + 64) of a tile from shared memory through the epilogue; of a chunk, to the partial sums.
template <int TILE, int THREADS, class W>
__device__ __forceinline__ void finish_rows(const W& work, const Piece& piece, int first, const float* stage) {
  constexpr int quads = TILE / 4;
  for (int i = int(threadIdx.x); i < stage_rows * quads; i += THREADS) {
    const int64_t row = int64_t(piece.tile_m) * TILE + first + i / quads, column = int64_t(piece.tile_n) * TILE + i % quads * 4;
    if (row >= work.M || column >= work.N) continue;
    float v[4];
    load_quad(stage + i / quads * (TILE + stage_padding) + i % quads * 4, 4, true, v);
    work.epilogue(int64_t(piece.slice) * work.M + row, column, v);
  }
}

// ---- float32

template <int TILE>
constexpr int simt_tile_k = TILE == 128 ? 8 : 16;
template <int TILE>
constexpr int simt_shared_floats = std::max(4 * simt_tile_k<TILE> * (TILE + 4), stage_rows*(TILE + stage_padding));
constexpr int simt_threads = 256;

// A thread's four values of an operand's tile: neighbours in memory, so along K or across it.
template <int TILE, bool K_CONTIGUOUS, class Source>
struct TileQuad {
  static constexpr int TILE_K = simt_tile_k<TILE>, STRIDE = TILE + 4;
  static_assert(TILE * TILE_K == 4 * simt_threads);
  typename Source::Quads walk;
  float v[4];

  static __device__ __forceinline__ int k() { return K_CONTIGUOUS ? int(threadIdx.x) % (TILE_K / 4) * 4 : int(threadIdx.x) / (TILE / 4); }
  static __device__ __forceinline__ int i() { return K_CONTIGUOUS ? int(threadIdx.x) / (TILE_K / 4) : int(threadIdx.x) % (TILE / 4) * 4; }
  __device__ __forceinline__ void start(const Source& source, int tile, int64_t step) {
    const int64_t at = int64_t(tile) * TILE + i(), at_k = step * TILE_K + k();
    walk.start(source, K_CONTIGUOUS ? at : at_k, K_CONTIGUOUS ? at_k : at);
  }
  __device__ __forceinline__ void fetch() {
    walk.load(v);
    if constexpr (K_CONTIGUOUS)
      walk.move_columns(TILE_K);
    else
      walk.move_rows(TILE_K);
  }
  __device__ __forceinline__ void place(float* tile) const {
    if constexpr (K_CONTIGUOUS) {
#pragma unroll
      for (int n = 0; n < 4; n++) tile[(k() + n) * STRIDE + i()] = v[n];
    } else {
      store_quad(tile + k() * STRIDE + i(), 4, true, v);
    }
  }
};

// 16 x 16 threads; thread (x, y) owns rows y * 4 .. + 3 and columns x * 4 .. + 3 of each 64 x 64 quarter.
template <int TILE, bool A_K, bool B_K, class A, class B, class T>
__global__ void __launch_bounds__(simt_threads, 2) gemm_simt_kernel(const __grid_constant__ Work<A, B, T> work) {
  constexpr int TILE_K = simt_tile_k<TILE>, STRIDE = TILE + 4, HALVES = TILE / 64;
  DYNAMIC_SHARED(float, shared);
  SHARED(Piece, piece);  // not in registers: they are for the sums
  const int x = int(threadIdx.x) % 16 * 4, y = int(threadIdx.x) / 16 * 4;
  TileQuad<TILE, A_K, A> next_a;
  TileQuad<TILE, B_K, B> next_b;

  const int64_t pieces = work.tiles_m * work.tiles_n * (work.batch * work.chunks);
  for (int64_t index = blockIdx.x; index < pieces; index += gridDim.x) {
    if (threadIdx.x == 0) piece = piece_of(work, index);
    __syncthreads();
    const auto fetch = [&](int step) {
      if (step == piece.steps) next_a.start(work.a_rank, piece.tile_m, 0), next_b.start(work.b_rank, piece.tile_n, 0);
      next_a.fetch();
      next_b.fetch();
    };
    const auto place = [&](int buffer) {
      next_a.place(shared + 2 * buffer * TILE_K * STRIDE);
      next_b.place(shared + (2 * buffer + 1) * TILE_K * STRIDE);
    };

    const int64_t first_step = piece.slice / work.batch * work.chunk_steps;
    next_a.start(work.a.of_matrix(piece.slice % work.batch), piece.tile_m, first_step);
    next_b.start(work.b.of_matrix(piece.slice % work.batch), piece.tile_n, first_step);

    float sums[4 * HALVES][4 * HALVES] = {};
    if (piece.all_steps > 0) {
      fetch(0);
      place(0);
    }
    __syncthreads();
    for (int step = 0; step < piece.all_steps; step++) {
      if (step + 1 < piece.all_steps) fetch(step + 1);
      const float *tile_a = shared + 2 * (step % 2) * TILE_K * STRIDE, *tile_b = tile_a + TILE_K * STRIDE;
#pragma unroll
      for (int k = 0; k < TILE_K; k++) {
        float left[HALVES][4], right[HALVES][4];
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
          load_quad(tile_a + k * STRIDE + 64 * half + y, 4, true, left[half]);
          load_quad(tile_b + k * STRIDE + 64 * half + x, 4, true, right[half]);
        }
#pragma unroll
        for (int i = 0; i < 4 * HALVES; i++)
#pragma unroll
          for (int j = 0; j < 4 * HALVES; j++) sums[i][j] += left[i / 4][i % 4] * right[j / 4][j % 4];
      }
      if (step + 1 < piece.all_steps) place((step + 1) % 2);
      __syncthreads();
    }

#pragma unroll 1
    for (int half = 0; half < HALVES; half++) {
#pragma unroll
      for (int i = 0; i < 4 * HALVES; i++)
#pragma unroll
        for (int j = 0; j < 4 * HALVES; j += 4) {
          if (i / 4 != half) continue;
          const float v[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
          store_quad(shared + (y + i % 4) * (TILE + stage_padding) + 16 * j + x, 4, true, v);
        }
      __syncthreads();
      finish_rows<TILE, simt_threads>(work, piece, 64 * half, shared);
      __syncthreads();
    }
  }
}

// ---- bfloat16 on tensor cores

constexpr int mma_tile_k = 32, mma_stages = 4;
template <int TILE>
constexpr int mma_threads = TILE * 2;  // 2 x 4 warps of 64 x 32 sums, or 2 x 2 of 32 x 32
template <int TILE>
constexpr int mma_shared_bytes = std::max(mma_stages * 2 * TILE * mma_tile_k * 2, stage_rows*(TILE + stage_padding) * 4);

// Tiles of a matrix in memory, 16 bytes per copy. A tile has TILE rows of TILE_K values, or TILE_K rows of TILE when K is not contiguous.
//   start(source, tile, step)   the next tile is number `tile` along M or N and number `step` along K
//   fetch(tile)               starts to bring it, and moves on by TILE_K
//   place(tile)               after the products of the current tile: stores what fetch left in registers, here nothing
template <bool K_CONTIGUOUS, int TILE, int TILE_K, int THREADS>
struct AsyncLoader {
  static constexpr int ROWS = K_CONTIGUOUS ? TILE : TILE_K, CHUNKS = (K_CONTIGUOUS ? TILE_K : TILE) / 8;
  static constexpr int COPIES = ROWS * CHUNKS / THREADS, ROWS_PER_COPY = THREADS / CHUNKS;
  static_assert(COPIES * ROWS_PER_COPY == ROWS);
  const bfloat16* from;
  int64_t stride;
  int rows_left, columns_left;

  __device__ __forceinline__ void start(const Rows<bfloat16>& source, int tile, int64_t step) {
    const int64_t row = (K_CONTIGUOUS ? int64_t(tile) * TILE : step * TILE_K) + int(threadIdx.x) / CHUNKS;
    const int64_t column = (K_CONTIGUOUS ? step * TILE_K : int64_t(tile) * TILE) + int(threadIdx.x) % CHUNKS * 8;
    from = source.data + row * source.columns + column;
    stride = source.columns;
    rows_left = left_from(row, source.rows);
    columns_left = left_from(column, source.columns);
  }
  __device__ __forceinline__ void fetch(bfloat16* tile) {
    const int row = int(threadIdx.x) / CHUNKS, chunk = int(threadIdx.x) % CHUNKS;
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      const bool inside = columns_left > 0 && i * ROWS_PER_COPY < rows_left;  // columns come in whole chunks
      copy_async<16>(tile + swizzled<CHUNKS>(row + i * ROWS_PER_COPY, chunk) * 8, from + i * ROWS_PER_COPY * stride, inside ? 16 : 0);
    }
    if constexpr (K_CONTIGUOUS)
      from += TILE_K, columns_left -= TILE_K;
    else
      from += TILE_K * stride, rows_left -= TILE_K;
  }
  __device__ __forceinline__ void place(bfloat16*) const {}
};

// The 16 x 16 values at (first, k) of a tile, first along M or N: registers for the quarters (0, 0), (8, 0), (0, 8), (8, 8). That is a
// fragment of A; as B, registers 0 and 2 are the columns `first` .. + 7, registers 1 and 3 the next eight.
template <bool K_CONTIGUOUS, int TILE>
__device__ __forceinline__ void load_fragment(const bfloat16* tile, int first, int k, uint32_t (&to)[4]) {
  if constexpr (K_CONTIGUOUS)
    load_matrices<false>(to, tile + swizzled<mma_tile_k / 8>(first + lane() % 16, k / 8 + lane() / 16) * 8);
  else
    load_matrices<true>(to, tile + swizzled<TILE / 8>(k + lane() / 16 * 8 + lane() % 8, first / 8 + lane() / 8 % 2) * 8);
}

template <int TILE, bool A_K, bool B_K, class A, class B>
__global__ void __launch_bounds__(mma_threads<TILE>, 512 / mma_threads<TILE>)
    gemm_mma_kernel(const __grid_constant__ Work<A, B, bfloat16> work) {
  constexpr int THREADS = mma_threads<TILE>, WARPS_N = TILE / 32, WARP_M = TILE / 2, WARP_N = 32;
  constexpr int tile_values = TILE * mma_tile_k;
  DYNAMIC_SHARED(bfloat16, shared);
  SHARED(Piece, piece);
  float* const stage = reinterpret_cast<float*>(shared);
  const int warp_m = warp() / WARPS_N * WARP_M, warp_n = warp() % WARPS_N * WARP_N;
  typename A::template Loader<A_K, TILE, mma_tile_k, THREADS> load_a;
  typename B::template Loader<B_K, TILE, mma_tile_k, THREADS> load_b;

  const int64_t pieces = work.tiles_m * work.tiles_n * (work.batch * work.chunks);
  for (int64_t index = blockIdx.x; index < pieces; index += gridDim.x) {
    if (threadIdx.x == 0) piece = piece_of(work, index);
    __syncthreads();
    const auto slot = [&](int step) { return shared + step % mma_stages * 2 * tile_values; };
    const auto fetch = [&](int step) {
      if (step < piece.all_steps) {
        if (step == piece.steps) load_a.start(work.a_rank, piece.tile_m, 0), load_b.start(work.b_rank, piece.tile_n, 0);
        load_a.fetch(slot(step));
        load_b.fetch(slot(step) + tile_values);
      }
      commit_copies();
    };
    const auto place = [&](int step) {
      if (step >= piece.all_steps) return;
      load_a.place(slot(step));
      load_b.place(slot(step) + tile_values);
    };
    const int64_t first_step = piece.slice / work.batch * work.chunk_steps;
    load_a.start(work.a.of_matrix(piece.slice % work.batch), piece.tile_m, first_step);
    load_b.start(work.b.of_matrix(piece.slice % work.batch), piece.tile_n, first_step);
#pragma unroll
    for (int step = 0; step < mma_stages - 1; step++) {
      fetch(step);
      place(step);
    }

    float sums[WARP_M / 16][WARP_N / 8][4] = {};
    for (int step = 0; step < piece.all_steps; step++) {
      wait_copies<mma_stages - 2>();
      __syncthreads();  // this step's tiles are complete, and nobody reads those of the step before any more
      fetch(step + mma_stages - 1);
      const bfloat16 *tile_a = slot(step), *tile_b = tile_a + tile_values;
#pragma unroll
      for (int k = 0; k < mma_tile_k; k += 16) {
        uint32_t left[4], right[WARP_N / 16][4];
#pragma unroll
        for (int j = 0; j < WARP_N / 16; j++) load_fragment<B_K, TILE>(tile_b, warp_n + 16 * j, k, right[j]);
#pragma unroll
        for (int i = 0; i < WARP_M / 16; i++) {
          load_fragment<A_K, TILE>(tile_a, warp_m + 16 * i, k, left);
#pragma unroll
          for (int j = 0; j < WARP_N / 8; j++) {
            const uint32_t b[2] = {right[j / 2][j % 2], right[j / 2][j % 2 + 2]};
            mma(sums[i][j], left, b);
          }
        }
      }
      place(step + mma_stages - 1);
    }
    wait_copies<0>();
    __syncthreads();

#pragma unroll 1
    for (int first = 0; first < TILE; first += stage_rows) {
      if (warp_m / stage_rows * stage_rows == first) {
#pragma unroll
        for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
          for (int j = 0; j < WARP_N / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const Place at = place_in_sums(lane(), 2 * half);
              float* to = stage + (warp_m - first + 16 * i + at.row) * (TILE + stage_padding) + warp_n + 8 * j + at.column;
              *reinterpret_cast<float2*>(to) = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
            }
      }
      __syncthreads();
      finish_rows<TILE, THREADS>(work, piece, first, stage);
      __syncthreads();
    }
  }
}

// ---- partial sums

// partials (chunks, rows, columns), added in chunk order.
template <class T>
__global__ void combine_chunks_kernel(const float* partials, int64_t chunks, int64_t rows, Epilogue<T> epilogue) {
  const int64_t columns = epilogue.columns, quads = (columns + 3) / 4;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * quads; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / quads, column = i % quads * 4;
    float v[4] = {};
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      float part[4];
      load_quad(partials + (chunk * rows + row) * columns + column, columns - column, columns % 4 == 0, part);
#pragma unroll
      for (int k = 0; k < 4; k++) v[k] += part[k];
    }
    epilogue(row, column, v);
  }
}

// ---- launchers

// Tile and chunks of a product, from its shape. The numbers are those of a device with 100 to 150 multiprocessors; they are
// constants so that results are the same on every GPU.
struct Cut {
  int64_t tile, chunks;

  Cut(int64_t M, int64_t N, int64_t K, int64_t batch) {
    const auto tiles = [&](int64_t size) { return batch * ((M + size - 1) / size) * ((N + size - 1) / size); };
    constexpr int64_t one_wave = 128, chunk_steps = 512;
    const int64_t most_chunks = std::max<int64_t>(1, K / chunk_steps);
    tile = std::min(M, N) > 64 && tiles(128) * most_chunks >= one_wave ? 128 : 64;
    const int64_t wanted = 4 * one_wave / std::max<int64_t>(1, tiles(tile));
    chunks = std::clamp<int64_t>(wanted, 1, most_chunks);
  }
};

// The product of two sources, with or without rank steps.
template <bool A_K, bool B_K, class A, class B, class T>
void multiply(const A& a, const B& b, const A& a_rank, const B& b_rank, int64_t M, int64_t N, int64_t K, int64_t rank, int64_t batch,
              const Epilogue<T>& epilogue) {
  const Cut cut(M, N, K, batch);
  bool tensor_cores = false;
  if constexpr (sizeof(T) == 2)
    tensor_cores =
        a.fits_tensor_cores() && b.fits_tensor_cores() && (rank == 0 || (a_rank.fits_tensor_cores() && b_rank.fits_tensor_cores()));
  // bfloat16 outside the tensor cores is for odd shapes: one tile size is enough
  const int64_t tile = sizeof(T) == 4 || tensor_cores ? cut.tile : 64;
  const int64_t tile_k = tensor_cores ? mma_tile_k : tile == 128 ? simt_tile_k<128> : simt_tile_k<64>;

  constexpr int64_t most_steps = 1 << 20;
  Work<A, B, T> work{a, a_rank, b, b_rank, epilogue, M, N, int(batch)};
  work.tiles_m = (M + tile - 1) / tile;
  work.tiles_n = (N + tile - 1) / tile;
  work.steps = (K + tile_k - 1) / tile_k;
  work.rank_steps = int((rank + tile_k - 1) / tile_k);
  work.chunk_steps = std::clamp<int64_t>((work.steps + cut.chunks - 1) / cut.chunks, 1, most_steps);
  work.chunks = int(std::max<int64_t>(1, (work.steps + work.chunk_steps - 1) / work.chunk_steps));
  const int64_t rows = batch * M;
  const Scratch<float> partials(work.chunks > 1 ? work.chunks * rows * N : 0);
  if (work.chunks > 1)
    work.epilogue = {nullptr, nullptr, nullptr, partials.data(), N, 1, Activation::none, false, whole_quads<float>(N, partials.data())};

  const unsigned grid = grid_of(work.tiles_m * work.tiles_n * batch * work.chunks);
  if constexpr (sizeof(T) == 2) {
    if (!tensor_cores)
      launch(gemm_simt_kernel<64, A_K, B_K, A, B, T>, grid, simt_threads, simt_shared_floats<64> * 4, work);
    else if (tile == 128)
      launch(gemm_mma_kernel<128, A_K, B_K, A, B>, grid, mma_threads<128>, mma_shared_bytes<128>, work);
    else
      launch(gemm_mma_kernel<64, A_K, B_K, A, B>, grid, mma_threads<64>, mma_shared_bytes<64>, work);
  } else {
    if (tile == 128)
      launch(gemm_simt_kernel<128, A_K, B_K, A, B, T>, grid, simt_threads, simt_shared_floats<128> * 4, work);
    else
      launch(gemm_simt_kernel<64, A_K, B_K, A, B, T>, grid, simt_threads, simt_shared_floats<64> * 4, work);
  }
  if (work.chunks > 1)
    launch(combine_chunks_kernel<T>, grid_of((rows * ((N + 3) / 4) + 255) / 256), 256, 0, partials.data(), work.chunks, rows, epilogue);
}

}  // namespace galago::cuda
