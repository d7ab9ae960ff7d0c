/*
cross_attention in float32 arithmetic for any head size up to 256; storage float32 or bfloat16.

All three kernels have one shape: a block owns ROWS rows, which stay in shared memory, and streams tiles of COLS columns past them.
  forward   rows = queries, columns = keys:     S = Q K^T, online softmax, out += P V
  dq        rows = queries, columns = keys:     S = Q K^T, dP = dO V^T, dq += dS K
  dk, dv    rows = keys, columns = queries:     S^T = K Q^T, dP^T = V dO^T, dv += P^T dO, dk += dS^T Q
so two products are enough: `scores` (contraction over the head) and `accumulate` (contraction over the columns of the tile).
Recomputing S and dP for dq costs 7 products instead of 5 and buys ownership: nobody else writes a block's rows.

128 threads form 8 x 16. Thread (y, x) has rows y + 8 i (i < R) and, of the scores, columns x + 16 j (j < C); of the results, the W
consecutive columns at (x + 16 n) W. A row is thus spread over 16 lanes of one warp: its maximum and sum are four shuffles, and the
probabilities pass through shared memory with a warp barrier only. Rows of a tile are 4 floats longer than the head, so that 8 lanes
reading 16 bytes each meet 32 different banks.

Shared memory, floats: rows 2 x ROWS (DP + 4), columns 2 x COLS (DP + 4), probabilities ROWS (COLS + 16): 77 KB at DP 128.
Registers: the accumulators are R DP / 16 per matrix, at most 64 together.
*/
#pragma once
#include "attention_items.cuh"
#include "vec.cuh"

namespace galago::cuda::attention::simt {

constexpr int threads = 128;

// Sizes for heads of up to DP values.
template <int DP>
struct Sizes {
  static constexpr int R = DP > 128 ? 2 : 4, C = DP > 128 ? 1 : 2;
  static constexpr int ROWS = 8 * R, COLS = 16 * C;
  static constexpr int LD = DP + 4, PLD = COLS + 16;
  static constexpr int W = DP >= 64 ? 4 : DP / 16, N = DP / 16 / W;
  static constexpr size_t shared_bytes = sizeof(float) * (2 * ROWS * LD + 2 * COLS * LD + ROWS * PLD);
  static_assert(shared_bytes <= 99 * 1024, "the smallest limit of the devices");
};

__device__ __forceinline__ int thread_x() { return int(threadIdx.x) % 16; }
__device__ __forceinline__ int thread_y() { return int(threadIdx.x) / 16; }

// The reductions over the 16 lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(full_mask, x, offset));
  return x;
}
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(full_mask, x, offset);
  return x;
}

// tile[r][d] = factor x[r * stride + d] for r < count and d < D, zero elsewhere: a row behind the last is another item's, where an
// infinity times a probability of zero would be NaN.
template <int ROWS, int DP, class T>
__device__ void load_tile(float* tile, const T* x, int64_t stride, int count, const Call& call, float factor = 1) {
  constexpr int LD = DP + 4, width = pack_width<T>;
  if (call.whole_packs) {
    for (int i = int(threadIdx.x); i < ROWS * (DP / width); i += threads) {
      const int r = i / (DP / width), d = i % (DP / width) * width;
      Pack<T> pack{};
      if (r < count && d < call.D) pack = load_pack(x + r * stride + d);
#pragma unroll
      for (int w = 0; w < width; w += 4) {
        Pack<float> values;
#pragma unroll
        for (int e = 0; e < 4; e++) values.v[e] = factor * to_float(pack.v[w + e]);
        store_pack(tile + r * LD + d + w, values);
      }
    }
  } else {
    for (int i = int(threadIdx.x); i < ROWS * DP; i += threads) {
      const int r = i / DP, d = i % DP;
      tile[r * LD + d] = r < count && d < call.D ? factor * to_float(x[r * stride + d]) : 0.0f;
    }
  }
}

// s[i][j] = dot(row i, column j) of this thread. The head is padded with zeros up to a multiple of 4.
template <int DP>
__device__ __forceinline__ void scores(const float* rows, const float* columns, int D, float (&s)[Sizes<DP>::R][Sizes<DP>::C]) {
  using S = Sizes<DP>;
#pragma unroll
  for (int i = 0; i < S::R; i++)
#pragma unroll
    for (int j = 0; j < S::C; j++) s[i][j] = 0;
#pragma unroll 2
  for (int d = 0; d < D; d += 4) {
    Pack<float> a[S::R], b[S::C];
#pragma unroll
    for (int i = 0; i < S::R; i++) a[i] = load_pack(rows + (thread_y() + 8 * i) * S::LD + d);
#pragma unroll
    for (int j = 0; j < S::C; j++) b[j] = load_pack(columns + (thread_x() + 16 * j) * S::LD + d);
#pragma unroll
    for (int i = 0; i < S::R; i++)
#pragma unroll
      for (int j = 0; j < S::C; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[i][j] += a[i].v[e] * b[j].v[e];
  }
}

// Passes the warp's rows of p to its other lanes.
template <int DP>
__device__ __forceinline__ void share(float* shared_p, const float (&p)[Sizes<DP>::R][Sizes<DP>::C]) {
  using S = Sizes<DP>;
  __syncwarp();  // the values before are still being read
#pragma unroll
  for (int i = 0; i < S::R; i++)
#pragma unroll
    for (int j = 0; j < S::C; j++) shared_p[(thread_y() + 8 * i) * S::PLD + thread_x() + 16 * j] = p[i][j];
  __syncwarp();
}

// acc += p columns, over the first `count` columns of the tile; p and the columns are zero up to the next multiple of 4.
template <int DP>
__device__ __forceinline__ void accumulate(const float* p, const float* columns, int count, float (&acc)[Sizes<DP>::R][DP / 16]) {
  using S = Sizes<DP>;
  struct alignas(4 * S::W) Columns {
    float v[S::W];
  };
  for (int j = 0; j < count; j += 4) {
    Pack<float> a[S::R];
#pragma unroll
    for (int i = 0; i < S::R; i++) a[i] = load_pack(p + (thread_y() + 8 * i) * S::PLD + j);
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int n = 0; n < S::N; n++) {
        const Columns b = *reinterpret_cast<const Columns*>(columns + (j + e) * S::LD + (thread_x() + 16 * n) * S::W);
#pragma unroll
        for (int i = 0; i < S::R; i++)
#pragma unroll
          for (int w = 0; w < S::W; w++) acc[i][n * S::W + w] += a[i].v[e] * b.v[w];
      }
  }
}

// x[row * stride + column] = factor acc, for the rows below `count`.
template <int DP, class T>
__device__ void store_rows(T* x, int64_t stride, int count, const Call& call, const float (&acc)[Sizes<DP>::R][DP / 16],
                           const float (&factor)[Sizes<DP>::R]) {
  using S = Sizes<DP>;
  struct alignas(S::W * sizeof(T)) Columns {
    T v[S::W];
  };
#pragma unroll
  for (int i = 0; i < S::R; i++) {
    const int row = thread_y() + 8 * i;
    if (row >= count) continue;
#pragma unroll
    for (int n = 0; n < S::N; n++) {
      const int d = (thread_x() + 16 * n) * S::W;
      Columns values;
#pragma unroll
      for (int w = 0; w < S::W; w++) values.v[w] = from_float<T>(factor[i] * acc[i][n * S::W + w]);
      if (call.whole_packs && d < call.D) *reinterpret_cast<Columns*>(x + row * stride + d) = values;
#pragma unroll
      for (int w = 0; w < S::W; w++)
        if (!call.whole_packs && d + w < call.D) x[row * stride + d + w] = values.v[w];
    }
  }
}

template <class T, int DP>
__global__ void __launch_bounds__(threads, 2) forward_kernel(const Call call, const T* q, const T* k, const T* v, T* out, float* lse) {
  using S = Sizes<DP>;
  DYNAMIC_SHARED(float, shared);
  float *tile_q = shared, *tile_k = tile_q + 2 * S::ROWS * S::LD, *tile_p = tile_k + 2 * S::COLS * S::LD;
  float* tile_v = v == k ? tile_k : tile_k + S::COLS * S::LD;
  const int64_t q_stride = int64_t(call.H) * call.D, k_stride = int64_t(call.Hkv) * call.D;

  zero_unowned(out, call.query_offsets, q_stride);
  if (call.query_offsets.at)
    for (int h = 0; h < call.H; h++) call.query_offsets.fill_outside(lse + h * call.Tq, 1, hidden);

  for (int64_t unit = blockIdx.x; unit < call.query_slots(S::ROWS) * call.H; unit += gridDim.x) {
    const Tile tile = call.query_tile(unit / call.H, S::ROWS);
    if (tile.count == 0) continue;
    const Item item = call.item(tile.item);
    const int h = int(unit % call.H), key_head = h / (call.H / call.Hkv);
    const int64_t first_row = item.first_query + tile.start;
    const int keys = call.visible_keys(item, tile.start + tile.count);
    // Scores come out in base 2: log2(e) is part of the scale.
    load_tile<S::ROWS, DP>(tile_q, q + (call.shared ? tile.start : first_row) * q_stride + h * call.D, q_stride, tile.count, call,
                           call.scale * log2_e);
    float acc[S::R][DP / 16] = {}, top[S::R], sum[S::R] = {}, inverse[S::R];
    int seen[S::R];
#pragma unroll
    for (int i = 0; i < S::R; i++) {
      top[i] = hidden;
      seen[i] = call.keys_seen(item, tile.start + thread_y() + 8 * i);
    }

    for (int start = 0; start < keys; start += S::COLS) {
      const int64_t at = (item.first_key + start) * k_stride + key_head * call.D;
      __syncthreads();  // the tiles before are still being read
      load_tile<S::COLS, DP>(tile_k, k + at, k_stride, keys - start, call);
      if (v != k) load_tile<S::COLS, DP>(tile_v, v + at, k_stride, keys - start, call);
      __syncthreads();
      float s[S::R][S::C];
      scores<DP>(tile_q, tile_k, call.D, s);
#pragma unroll
      for (int j = 0; j < S::C; j++) {
        const int key = start + thread_x() + 16 * j;
        const bool masked = call.masked(item, key);
#pragma unroll
        for (int i = 0; i < S::R; i++)
          if (masked || key >= seen[i]) s[i][j] = hidden;
      }
#pragma unroll
      for (int i = 0; i < S::R; i++) {
        float largest = top[i];
#pragma unroll
        for (int j = 0; j < S::C; j++) largest = fmaxf(largest, s[i][j]);
        largest = row_max(largest);
        const float base = largest == hidden ? 0.0f : largest, shrink = exp2f(top[i] - base);
        top[i] = largest;
        float part = 0;
#pragma unroll
        for (int j = 0; j < S::C; j++) part += s[i][j] = exp2f(s[i][j] - base);
        sum[i] = sum[i] * shrink + row_sum(part);
#pragma unroll
        for (int c = 0; c < DP / 16; c++) acc[i][c] *= shrink;
      }
      share<DP>(tile_p, s);
      accumulate<DP>(tile_p, tile_v, min(S::COLS, keys - start), acc);
    }
#pragma unroll
    for (int i = 0; i < S::R; i++) {
      const int row = thread_y() + 8 * i;
      inverse[i] = sum[i] > 0 ? 1 / sum[i] : 0;
      if (thread_x() == 0 && row < tile.count) lse[h * call.Tq + first_row + row] = sum[i] > 0 ? (top[i] + log2f(sum[i])) * ln_2 : hidden;
    }
    store_rows<DP>(out + first_row * q_stride + h * call.D, q_stride, tile.count, call, acc, inverse);
    __syncthreads();  // tile_q is still being read
  }
}

// dq of a tile of queries. With shared queries a unit is a chunk of items, and its sum goes to `partial` (chunks, Nq, H, D).
template <class T, int DP>
__global__ void __launch_bounds__(threads, 2) dq_kernel(const Call call, const Chunks chunks, const T* q, const T* k, const T* v,
                                                        const T* dout, const Row* saved, T* dq, float* partial) {
  using S = Sizes<DP>;
  DYNAMIC_SHARED(float, shared);
  float *tile_q = shared, *tile_dout = tile_q + S::ROWS * S::LD, *tile_k = tile_dout + S::ROWS * S::LD;
  float *tile_v = v == k ? tile_k : tile_k + S::COLS * S::LD, *tile_ds = tile_k + 2 * S::COLS * S::LD;
  const int64_t q_stride = int64_t(call.H) * call.D, k_stride = int64_t(call.Hkv) * call.D;
  zero_unowned(dq, call.query_offsets, q_stride);

  const int tiles = call.tiles_per_item(S::ROWS);
  const int64_t slots = call.shared ? int64_t(chunks.count) * tiles : call.query_slots(S::ROWS);
  for (int64_t unit = blockIdx.x; unit < slots * call.H; unit += gridDim.x) {
    const int64_t slot = unit / call.H, chunk = slot / max(tiles, 1);
    const Tile tile = call.query_tile(call.shared ? slot % tiles : slot, S::ROWS);
    if (tile.count == 0) continue;
    const int h = int(unit % call.H), key_head = h / (call.H / call.Hkv);
    const int first_item = call.shared ? int(chunk) * chunks.items : tile.item;
    const int last_item = call.shared ? min(call.B, first_item + chunks.items) : first_item + 1;
    const int64_t q_row = call.shared ? tile.start : call.item(tile.item).first_query + tile.start;
    load_tile<S::ROWS, DP>(tile_q, q + q_row * q_stride + h * call.D, q_stride, tile.count, call, call.scale * log2_e);
    float acc[S::R][DP / 16] = {}, factor[S::R];

    for (int b = first_item; b < last_item; b++) {
      const Item item = call.item(b);
      const int64_t first_row = item.first_query + tile.start;
      const int keys = call.visible_keys(item, tile.start + tile.count);
      __syncthreads();  // tile_dout is still being read
      load_tile<S::ROWS, DP>(tile_dout, dout + first_row * q_stride + h * call.D, q_stride, tile.count, call);
      Row rows[S::R];
      int seen[S::R];
#pragma unroll
      for (int i = 0; i < S::R; i++) {
        const int row = min(thread_y() + 8 * i, tile.count - 1);
        rows[i] = saved[h * call.Tq + first_row + row];
        seen[i] = call.keys_seen(item, tile.start + thread_y() + 8 * i);
      }
      for (int start = 0; start < keys; start += S::COLS) {
        const int64_t at = (item.first_key + start) * k_stride + key_head * call.D;
        __syncthreads();
        load_tile<S::COLS, DP>(tile_k, k + at, k_stride, keys - start, call);
        if (v != k) load_tile<S::COLS, DP>(tile_v, v + at, k_stride, keys - start, call);
        __syncthreads();
        float s[S::R][S::C], dp[S::R][S::C];
        scores<DP>(tile_q, tile_k, call.D, s);
        scores<DP>(tile_dout, tile_v, call.D, dp);
#pragma unroll
        for (int j = 0; j < S::C; j++) {
          const int key = start + thread_x() + 16 * j;
          const bool masked = call.masked(item, key);
#pragma unroll
          for (int i = 0; i < S::R; i++) {
            s[i][j] = key < seen[i] && !masked ? exp2f(s[i][j] - rows[i].shift) * (dp[i][j] - rows[i].delta) : 0.0f;
          }
        }
        share<DP>(tile_ds, s);
        accumulate<DP>(tile_ds, tile_k, min(S::COLS, keys - start), acc);
      }
    }
#pragma unroll
    for (int i = 0; i < S::R; i++) factor[i] = call.scale;
    if (call.shared)
      store_rows<DP>(partial + (chunk * call.queries_per_item + q_row) * q_stride + h * call.D, q_stride, tile.count, call, acc, factor);
    else
      store_rows<DP>(dq + q_row * q_stride + h * call.D, q_stride, tile.count, call, acc, factor);
    __syncthreads();  // tile_q is still being read
  }
}

// dk and dv of a tile of keys, summed over the query heads of the group in their order. Either may be null.
template <class T, int DP>
__global__ void __launch_bounds__(threads, 2)
    dkdv_kernel(const Call call, const T* q, const T* k, const T* v, const T* dout, const Row* saved, T* dk, T* dv) {
  using S = Sizes<DP>;
  DYNAMIC_SHARED(float, shared);
  float *tile_k = shared, *tile_v = v == k ? tile_k : tile_k + S::ROWS * S::LD, *tile_q = tile_k + 2 * S::ROWS * S::LD;
  float *tile_dout = tile_q + S::COLS * S::LD, *tile_p = tile_dout + S::COLS * S::LD;
  const int64_t q_stride = int64_t(call.H) * call.D, k_stride = int64_t(call.Hkv) * call.D;
  zero_unowned(dk, call.key_offsets, k_stride);
  zero_unowned(dv, call.key_offsets, k_stride);

  for (int64_t unit = blockIdx.x; unit < call.key_slots(S::ROWS) * call.Hkv; unit += gridDim.x) {
    const Tile tile = call.key_tile(unit / call.Hkv, S::ROWS);
    if (tile.count == 0) continue;
    const Item item = call.item(tile.item);
    const int key_head = int(unit % call.Hkv), group = call.H / call.Hkv;
    const int64_t at = (item.first_key + tile.start) * k_stride + key_head * call.D;
    load_tile<S::ROWS, DP>(tile_k, k + at, k_stride, tile.count, call);
    if (v != k) load_tile<S::ROWS, DP>(tile_v, v + at, k_stride, tile.count, call);
    int from[S::R];
#pragma unroll
    for (int i = 0; i < S::R; i++) from[i] = call.seen_from(item, tile.start + thread_y() + 8 * i);
    float acc_k[S::R][DP / 16] = {}, acc_v[S::R][DP / 16] = {}, factor[S::R];
    const float scale = call.scale * log2_e;

    for (int h = key_head * group; h < (key_head + 1) * group; h++) {
      for (int start = call.first_query_of(item, tile.start) / S::COLS * S::COLS; start < item.queries; start += S::COLS) {
        const int64_t first_row = item.first_query + start;
        const int count = min(S::COLS, item.queries - start);
        __syncthreads();  // the tiles before are still being read
        load_tile<S::COLS, DP>(tile_q, q + (call.shared ? start : first_row) * q_stride + h * call.D, q_stride, count, call);
        load_tile<S::COLS, DP>(tile_dout, dout + first_row * q_stride + h * call.D, q_stride, count, call);
        __syncthreads();
        float s[S::R][S::C], dp[S::R][S::C];
        scores<DP>(tile_k, tile_q, call.D, s);
        scores<DP>(tile_v, tile_dout, call.D, dp);
#pragma unroll
        for (int j = 0; j < S::C; j++) {
          const int column = thread_x() + 16 * j;
          const Row row = saved[h * call.Tq + first_row + min(column, count - 1)];
#pragma unroll
          for (int i = 0; i < S::R; i++) {
            const bool seen = start + column >= from[i] && column < count;
            s[i][j] = seen ? exp2f(s[i][j] * scale - row.shift) : 0.0f;
            dp[i][j] = seen ? s[i][j] * (dp[i][j] - row.delta) : 0.0f;
          }
        }
        if (dv) {
          share<DP>(tile_p, s);
          accumulate<DP>(tile_p, tile_dout, count, acc_v);
        }
        if (dk) {
          share<DP>(tile_p, dp);
          accumulate<DP>(tile_p, tile_q, count, acc_k);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < S::R; i++) factor[i] = call.scale;
    if (dk) store_rows<DP>(dk + at, k_stride, tile.count, call, acc_k, factor);
#pragma unroll
    for (int i = 0; i < S::R; i++) factor[i] = 1;
    if (dv) store_rows<DP>(dv + at, k_stride, tile.count, call, acc_v, factor);
    __syncthreads();  // tile_k and tile_v are still being read
  }
}

}  // namespace galago::cuda::attention::simt
