/*
Norms of rows, shared by layer_norm (CENTERED) and rms_norm: with z = (x - mean) rstd, or x rstd: out = z weight + bias, and with
g = dout weight: dx = rstd (g - mean(g) - z mean(g z)), rms_norm without mean(g); dweight = sum over rows of dout z, dbias of dout.

A team owns a row: a warp up to 1024 columns, a block above. Up to 8192 columns a thread keeps its up to 32 elements of the row in
registers, PACKS times WIDTH of them (WIDTH is 16 bytes of elements, or 1 where rows are not aligned); PACKS = 0 reads longer rows once
for each pass. The mean comes first, then squared deviations, in float32.

Backward reads x and dout once. A block owns a chunk of rows, whose length follows from the number of rows alone; its teams add dout z and
dout in registers, row after row, and the teams' sums are added in their order. The chunks' partial sums go to column_sums.cuh.
Registers, bfloat16 and 768 columns: 48 for the sums, 24 for the row, 119 in all. Shared memory: at most 8 KB.
*/
#pragma once
#include <algorithm>

#include "column_sums.cuh"
#include "row_lanes.cuh"

namespace galago::cuda {

constexpr int norm_block = 256;

template <class T>
struct NormForward {
  const T *x, *residual, *weight, *bias;  // residual and, for rms_norm, bias: null
  T *sum, *out;
  float *mean, *rstd;  // mean is null for rms_norm
  int64_t rows, D;
  float eps;
};

template <class T>
struct NormBackward {
  const T *x, *weight;
  const float *mean, *rstd;
  const T* dout;
  T* dx;            // may be null
  float* partials;  // (2, chunks, D), rms_norm (1, chunks, D); not written when PACKS is 0
  int64_t rows, D, chunks, chunk_rows;
};

// V elements as they are stored.
template <int V, class T>
__device__ __forceinline__ void load_elements(const T* from, T (&x)[V]) {
  if constexpr (V == 1) {
    x[0] = *from;
  } else {
    const Pack<T> pack = load_pack(from);
#pragma unroll
    for (int k = 0; k < V; k++) x[k] = pack.v[k];
  }
}

// Calls f(j, c) for the thread's packs of a row: the j-th begins at column c.
template <int TEAM, int WIDTH, int PACKS, class F>
__device__ __forceinline__ void each_pack(int64_t D, const F& f) {
  const int64_t first = int64_t(threadIdx.x % TEAM) * WIDTH;
  if constexpr (PACKS > 0) {
#pragma unroll
    for (int j = 0; j < PACKS; j++) {
      const int64_t c = first + j * TEAM * WIDTH;
      if (c < D) f(j, c);
    }
  } else {
    for (int64_t c = first; c < D; c += TEAM * WIDTH) f(0, c);
  }
}

template <int TEAM>
__device__ __forceinline__ float team_sum(float x) {
  if constexpr (TEAM == warp_size)
    return warp_sum(x);
  else
    return block_sum(x);
}

template <bool CENTERED, int TEAM, int WIDTH, int PACKS, class T>
__global__ void __launch_bounds__(norm_block, 2) norm_forward_kernel(const NormForward<T> p) {
  constexpr int teams = norm_block / TEAM;
  const int64_t D = p.D;
  for (int64_t row = int64_t(blockIdx.x) * teams + threadIdx.x / TEAM; row < p.rows; row += int64_t(gridDim.x) * teams) {
    const T* x = p.x + row * D;
    T* sum = p.residual ? p.sum + row * D : nullptr;
    float v[PACKS ? PACKS : 1][WIDTH];
    float total = 0, squares = 0;
    each_pack<TEAM, WIDTH, PACKS>(D, [&](int j, int64_t c) {
      load_columns(x + c, v[j]);
      if (sum) {
        float added[WIDTH];
        load_columns(p.residual + row * D + c, added);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[j][k] = to_float(from_float<T>(v[j][k] + added[k]));  // what backward will read
        store_columns(sum + c, v[j]);
      }
#pragma unroll
      for (int k = 0; k < WIDTH; k++) total += v[j][k];
    });
    if (sum) x = sum;
    const float mean = CENTERED ? team_sum<TEAM>(total) / float(D) : 0.0f;
    each_pack<TEAM, WIDTH, PACKS>(D, [&](int j, int64_t c) {
      if constexpr (PACKS == 0) load_columns(x + c, v[j]);
#pragma unroll
      for (int k = 0; k < WIDTH; k++) squares += (v[j][k] - mean) * (v[j][k] - mean);
    });
    const float rstd = 1.0f / sqrtf(team_sum<TEAM>(squares) / float(D) + p.eps);
    each_pack<TEAM, WIDTH, PACKS>(D, [&](int j, int64_t c) {
      if constexpr (PACKS == 0) load_columns(x + c, v[j]);
      float weight[WIDTH], bias[WIDTH] = {};
      load_columns(p.weight + c, weight);
      if constexpr (CENTERED) load_columns(p.bias + c, bias);
#pragma unroll
      for (int k = 0; k < WIDTH; k++) v[j][k] = (v[j][k] - mean) * rstd * weight[k] + bias[k];
      store_columns(p.out + row * D + c, v[j]);
    });
    if (threadIdx.x % TEAM == 0) {
      if constexpr (CENTERED) p.mean[row] = mean;
      p.rstd[row] = rstd;
    }
  }
}

template <bool CENTERED, int TEAM, int WIDTH, int PACKS, class T>
__global__ void __launch_bounds__(norm_block, 1) norm_backward_kernel(const NormBackward<T> p) {
  constexpr int teams = norm_block / TEAM, packs = PACKS ? PACKS : 1;
  constexpr int columns = packs * WIDTH * TEAM;  // at least D
  const int team = threadIdx.x / TEAM, t = threadIdx.x % TEAM;
  const int64_t D = p.D;
  for (int64_t chunk = blockIdx.x; chunk < p.chunks; chunk += gridDim.x) {
    const int64_t end = min((chunk + 1) * p.chunk_rows, p.rows);
    float dweight[packs][WIDTH] = {}, dbias[packs][WIDTH] = {};
    for (int64_t row = chunk * p.chunk_rows + team; row < end; row += teams) {
      const T *x = p.x + row * D, *dout = p.dout + row * D;
      const float mean = CENTERED ? p.mean[row] : 0.0f, rstd = p.rstd[row];
      T vx[packs][WIDTH], vd[packs][WIDTH];
      float sum_g = 0, sum_gz = 0;
      each_pack<TEAM, WIDTH, PACKS>(D, [&](int j, int64_t c) {
        load_elements(x + c, vx[j]);
        load_elements(dout + c, vd[j]);
      });
      each_pack<TEAM, WIDTH, PACKS>(D, [&](int j, int64_t c) {
        if constexpr (PACKS == 0) {
          load_elements(x + c, vx[j]);
          load_elements(dout + c, vd[j]);
        }
        float weight[WIDTH];
        load_columns(p.weight + c, weight);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
          const float d = to_float(vd[j][k]), z = (to_float(vx[j][k]) - mean) * rstd, g = d * weight[k];
          if constexpr (CENTERED) sum_g += g;
          sum_gz += g * z;
          dweight[j][k] += d * z;
          if constexpr (CENTERED) dbias[j][k] += d;
        }
      });
      if (!p.dx) continue;
      const float mean_g = CENTERED ? team_sum<TEAM>(sum_g) / float(D) : 0.0f, mean_gz = team_sum<TEAM>(sum_gz) / float(D);
      each_pack<TEAM, WIDTH, PACKS>(D, [&](int j, int64_t c) {
        if constexpr (PACKS == 0) {
          load_elements(x + c, vx[j]);
          load_elements(dout + c, vd[j]);
        }
        float weight[WIDTH], dx[WIDTH];
        load_columns(p.weight + c, weight);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
          const float d = to_float(vd[j][k]), z = (to_float(vx[j][k]) - mean) * rstd;
          dx[k] = rstd * (d * weight[k] - mean_g - z * mean_gz);
        }
        store_columns(p.dx + row * D + c, dx);
      });
    }
    if constexpr (PACKS > 0) {
      float* to = p.partials + chunk * D;
      const int64_t second = p.chunks * D;  // from dweight's partial sums to dbias's
      if constexpr (teams == 1) {
        each_pack<TEAM, WIDTH, PACKS>(D, [&](int j, int64_t c) {
#pragma unroll
          for (int k = 0; k < WIDTH; k++) {
            to[c + k] = dweight[j][k];
            if constexpr (CENTERED) to[second + c + k] = dbias[j][k];
          }
        });
      } else {
        // element k of pack j of thread t lies at [j * WIDTH + k][t]: a warp touches every bank once
        SHARED(float[2][columns], sums);
        for (int turn = 0; turn < teams; turn++) {
          if (team == turn) {
#pragma unroll
            for (int e = 0; e < packs * WIDTH; e++) {
              const int at = e * TEAM + t;
              sums[0][at] = (turn ? sums[0][at] : 0.0f) + dweight[e / WIDTH][e % WIDTH];
              if constexpr (CENTERED) sums[1][at] = (turn ? sums[1][at] : 0.0f) + dbias[e / WIDTH][e % WIDTH];
            }
          }
          __syncthreads();
        }
        for (int c = threadIdx.x; c < D; c += norm_block) {
          const int pack = c / WIDTH, at = (pack / TEAM * WIDTH + c % WIDTH) * TEAM + pack % TEAM;
          to[c] = sums[0][at];
          if constexpr (CENTERED) to[second + c] = sums[1][at];
        }
        __syncthreads();
      }
    }
  }
}

// dout z, and dout: for rows that no registers hold.
template <bool CENTERED, class T>
struct NormTerm {
  static constexpr int count = CENTERED ? 2 : 1;
  NormBackward<T> p;
  __device__ void operator()(int64_t row, int64_t c, float (&sums)[count]) const {
    const float d = to_float(p.dout[row * p.D + c]), mean = CENTERED ? p.mean[row] : 0.0f;
    sums[0] += d * ((to_float(p.x[row * p.D + c]) - mean) * p.rstd[row]);
    if constexpr (CENTERED) sums[1] += d;
  }
};

// ---- launchers

// body<TEAM, WIDTH, PACKS>() for rows of D columns.
template <class T, class F>
void dispatch_norm(int64_t D, bool whole_packs, F&& body) {
  constexpr int W = pack_width<T>, full = 32 / W;  // packs of 32 elements
  constexpr int warp_row = warp_size * W;          // columns that a warp reads at once
  if (whole_packs) {
    if (D <= warp_row) return body.template operator()<warp_size, W, 1>();
    if (D <= full / 2 * warp_row) return body.template operator()<warp_size, W, full / 2>();
    if (D <= full * 3 / 4 * warp_row) return body.template operator()<warp_size, W, full * 3 / 4>();
    if (D <= 1024) return body.template operator()<warp_size, W, full>();
    if (D <= 4096) return body.template operator()<norm_block, W, full / 2>();
    if (D <= 8192) return body.template operator()<norm_block, W, full>();
    return body.template operator()<norm_block, W, 0>();
  }
  if (D <= 256) return body.template operator()<warp_size, 1, 8>();
  if (D <= 1024) return body.template operator()<warp_size, 1, 32>();
  if (D <= 8192) return body.template operator()<norm_block, 1, 32>();
  body.template operator()<norm_block, 1, 0>();
}

template <bool CENTERED, class T>
void norm_forward(const NormForward<T>& p) {
  dispatch_norm<T>(p.D, packed<T>(p.D, p.x, p.residual, p.weight, p.bias, p.sum, p.out), [&]<int TEAM, int WIDTH, int PACKS>() {
    constexpr int teams = norm_block / TEAM;
    launch(norm_forward_kernel<CENTERED, TEAM, WIDTH, PACKS, T>, grid_of((p.rows + teams - 1) / teams), norm_block, 0, p);
  });
}

// dweight, dbias: may be null.
template <bool CENTERED, class T>
void norm_backward(NormBackward<T> p, T* dweight, T* dbias) {
  // enough chunks to occupy a device, enough rows in each that its partial sums are a small part of what it reads
  p.chunk_rows = std::clamp<int64_t>((p.rows / 1024 + 7) / 8 * 8, 8, 256);
  p.chunks = (p.rows + p.chunk_rows - 1) / p.chunk_rows;
  constexpr int K = CENTERED ? 2 : 1;
  ColumnOutputs<K, T> out;
  out.to[0] = dweight;
  if constexpr (CENTERED) out.to[1] = dbias;
  dispatch_norm<T>(p.D, packed<T>(p.D, p.x, p.weight, p.dout, p.dx), [&]<int TEAM, int WIDTH, int PACKS>() {
    if constexpr (PACKS == 0) {
      if (p.dx) launch(norm_backward_kernel<CENTERED, TEAM, WIDTH, PACKS, T>, grid_of(p.chunks), norm_block, 0, p);
      if (dweight || dbias) sum_columns(NormTerm<CENTERED, T>{p}, 1, p.rows, p.D, out);
    } else {
      const Scratch<float> partials(K * p.chunks * p.D);
      p.partials = partials.data();
      launch(norm_backward_kernel<CENTERED, TEAM, WIDTH, PACKS, T>, grid_of(p.chunks), norm_block, 0, p);
      if (dweight || dbias) sum_columns(MatrixTerm<K, float>{p.partials, p.D, p.chunks * p.D}, 1, p.chunks, p.D, out);
    }
  });
}

}  // namespace galago::cuda
