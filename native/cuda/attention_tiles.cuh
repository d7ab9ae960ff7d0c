/*
cross_attention on the tensor cores, bfloat16, tile by tile: for jagged queries and for many of them. The three kernels of
attention_simt.cuh, with the same ownership, on mma m16n8k16: a block owns 64 rows, 16 per warp, and streams tiles of 64 columns past
them through two stages of asynchronous copies.

The sums of a product with 16 rows are, rounded, the left side of the next product: P and dS (or P^T and dS^T, where rows are keys) never
leave their registers.

Shared memory: rows 1 or 2 tiles, columns 2 stages x 2 tiles, a tile 128 D bytes: 80 KB forward and 96 KB backward at D 128.
*/
#pragma once
#include "attention_fragments.cuh"

namespace galago::cuda::attention::tiles {

constexpr int ROWS = 16 * warps, COLS = 64;

template <int D>
constexpr int tile_size = 64 * D;  // values
template <int D>
constexpr size_t forward_bytes = 5 * tile_size<D> * sizeof(bfloat16);
template <int D>
constexpr size_t backward_bytes = 6 * tile_size<D> * sizeof(bfloat16);
static_assert(backward_bytes<128> <= 99 * 1024, "the smallest limit of the devices");

// The columns' two tiles in two stages. `copy(start, stage)` starts the copies of a tile, `compute(start, stage)` uses them.
template <class Copy, class Compute>
__device__ __forceinline__ void stream(int begin, int end, Copy&& copy, Compute&& compute) {
  if (begin < end) copy(begin, 0);
  commit_copies();
  int stage = 0;
#pragma unroll 1
  for (int start = begin; start < end; start += COLS, stage ^= 1) {
    if (start + COLS < end) copy(start + COLS, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    compute(start, stage);
    __syncthreads();  // this stage is written next
  }
  wait_copies<0>();
}

template <int D>
__global__ void __launch_bounds__(threads, 2)
    forward_kernel(const Call call, const bfloat16* q, const bfloat16* k, const bfloat16* v, bfloat16* out, float* lse) {
  constexpr int G = D > 64 ? 2 : 4;
  DYNAMIC_SHARED(bfloat16, tile_q);
  const auto tile_k = [=](int stage) { return tile_q + (1 + 2 * stage) * tile_size<D>; };
  const auto tile_v = [=](int stage) { return v == k ? tile_k(stage) : tile_k(stage) + tile_size<D>; };
  const int64_t q_stride = int64_t(call.H) * D, k_stride = int64_t(call.Hkv) * D;
  const int thread = int(threadIdx.x), own = 16 * warp();  // first row of this warp
  zero_unowned(out, call.query_offsets, q_stride);
  if (call.query_offsets.at)
    for (int h = 0; h < call.H; h++) call.query_offsets.fill_outside(lse + h * call.Tq, 1, hidden);

  for (int64_t unit = blockIdx.x; unit < call.query_slots(ROWS) * call.H; unit += gridDim.x) {
    const Tile tile = call.query_tile(unit / call.H, ROWS);
    if (tile.count == 0) continue;
    const Item item = call.item(tile.item);
    const int h = int(unit % call.H), key_head = h / (call.H / call.Hkv);
    const int64_t first_row = item.first_query + tile.start, at = item.first_key * k_stride + key_head * D;
    const int keys = call.visible_keys(item, tile.start + tile.count);
    __syncthreads();  // the tiles of the unit before are still being read
    copy_tile<D, ROWS, threads>(tile_q, q + (call.shared ? tile.start : first_row) * q_stride + h * D, q_stride, tile.count, thread);

    const int row = tile.start + own;
    const int seen[2] = {call.keys_seen(item, row + fragment_row(0)), call.keys_seen(item, row + fragment_row(2))};
    Sums acc[D / 16];
    clear<D>(acc);
    Softmax softmax;
    stream(
        0, keys,
        [&](int start, int stage) {
          copy_tile<D, COLS, threads>(tile_k(stage), k + at + start * k_stride, k_stride, keys - start, thread);
          if (v != k) copy_tile<D, COLS, threads>(tile_v(stage), v + at + start * k_stride, k_stride, keys - start, thread);
        },
        [&](int start, int stage) {
          if (own >= tile.count) return;
#pragma unroll 1
          for (int column = 0; column < min(COLS, keys - start); column += 16 * G) {
            Sums s[G];
            scores<D>(s, tile_q, own, tile_k(stage), column);
#pragma unroll
            for (int g = 0; g < G; g++)
#pragma unroll
              for (int i = 0; i < 8; i++) {
                const int key = start + column + 16 * g + fragment_column(i / 4, i % 4);
                float& x = s[g][i / 4][i % 4];
                x = key < seen[i / 2 % 2] && !call.masked(item, key) ? x * (call.scale * log2_e) : hidden;
              }
            float shrink[2];
            softmax(s, shrink);
#pragma unroll
            for (int i = 0; i < D / 2; i++) acc[i / 8][i / 4 % 2][i % 4] *= shrink[i / 2 % 2];
#pragma unroll
            for (int g = 0; g < G; g++) {
              uint32_t p[4];
              round_left(p, s[g]);
              accumulate<D>(acc, p, tile_v(stage), column + 16 * g);
            }
          }
        });
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float sum = row_sum(softmax.sum[half]);
      const int row = own + fragment_row(2 * half);
      inverse[half] = sum > 0 ? 1 / sum : 0;
      if (lane() % 4 == 0 && row < tile.count)
        lse[h * call.Tq + first_row + row] = sum > 0 ? (softmax.top[half] + log2f(sum)) * ln_2 : hidden;
    }
    __syncthreads();  // every thread's copies into tile_q, also where the item has no keys
    store_rows<D>(out + (first_row + own) * q_stride + h * D, q_stride, tile.count - own, acc, inverse, tile_q, own);
  }
}

// dq of a tile of queries. With shared queries a unit is a chunk of items, and its sum goes to `partial` (chunks, Nq, H, D).
template <int D>
__global__ void __launch_bounds__(threads, 2)
    dq_kernel(const Call call, const Chunks chunks, const bfloat16* q, const bfloat16* k, const bfloat16* v, const bfloat16* dout,
              const Row* saved, bfloat16* dq, float* partial) {
  constexpr int G = 2;
  DYNAMIC_SHARED(bfloat16, tile_q);
  bfloat16* tile_dout = tile_q + tile_size<D>;
  const auto tile_k = [=](int stage) { return tile_q + (2 + 2 * stage) * tile_size<D>; };
  const auto tile_v = [=](int stage) { return v == k ? tile_k(stage) : tile_k(stage) + tile_size<D>; };
  const int64_t q_stride = int64_t(call.H) * D, k_stride = int64_t(call.Hkv) * D;
  const int thread = int(threadIdx.x), own = 16 * warp();
  zero_unowned(dq, call.query_offsets, q_stride);

  const int tiles = call.tiles_per_item(ROWS);
  const int64_t slots = call.shared ? int64_t(chunks.count) * tiles : call.query_slots(ROWS);
  for (int64_t unit = blockIdx.x; unit < slots * call.H; unit += gridDim.x) {
    const int64_t slot = unit / call.H, chunk = slot / max(tiles, 1);
    const Tile tile = call.query_tile(call.shared ? slot % tiles : slot, ROWS);
    if (tile.count == 0) continue;
    const int h = int(unit % call.H), key_head = h / (call.H / call.Hkv);
    const int first_item = call.shared ? int(chunk) * chunks.items : tile.item;
    const int last_item = call.shared ? min(call.B, first_item + chunks.items) : first_item + 1;
    const int64_t q_row = call.shared ? tile.start : call.item(tile.item).first_query + tile.start;
    __syncthreads();  // tile_q is still being read
    copy_tile<D, ROWS, threads>(tile_q, q + q_row * q_stride + h * D, q_stride, tile.count, thread);
    Sums acc[D / 16];
    clear<D>(acc);

    for (int b = first_item; b < last_item; b++) {
      const Item item = call.item(b);
      const int64_t first_row = item.first_query + tile.start, at = item.first_key * k_stride + key_head * D;
      const int keys = call.visible_keys(item, tile.start + tile.count);
      copy_tile<D, ROWS, threads>(tile_dout, dout + first_row * q_stride + h * D, q_stride, tile.count, thread);
      const int seen[2] = {call.keys_seen(item, tile.start + own + fragment_row(0)),
                           call.keys_seen(item, tile.start + own + fragment_row(2))};
      Row rows[2];
#pragma unroll
      for (int half = 0; half < 2; half++) rows[half] = saved[h * call.Tq + first_row + min(own + fragment_row(2 * half), tile.count - 1)];
      stream(
          0, keys,
          [&](int start, int stage) {
            copy_tile<D, COLS, threads>(tile_k(stage), k + at + start * k_stride, k_stride, keys - start, thread);
            if (v != k) copy_tile<D, COLS, threads>(tile_v(stage), v + at + start * k_stride, k_stride, keys - start, thread);
          },
          [&](int start, int stage) {
            if (own >= tile.count) return;
#pragma unroll 1
            for (int column = 0; column < min(COLS, keys - start); column += 16 * G) {
              Sums s[G], dp[G];
              scores<D>(s, tile_q, own, tile_k(stage), column);
              scores<D>(dp, tile_dout, own, tile_v(stage), column);
#pragma unroll
              for (int g = 0; g < G; g++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                  const int key = start + column + 16 * g + fragment_column(i / 4, i % 4), half = i / 2 % 2;
                  float& x = s[g][i / 4][i % 4];
                  const float p = fast_exp2(x * (call.scale * log2_e) - rows[half].shift);
                  x = key < seen[half] && !call.masked(item, key) ? p * (dp[g][i / 4][i % 4] - rows[half].delta) : 0.0f;
                }
                uint32_t ds[4];
                round_left(ds, s[g]);
                accumulate<D>(acc, ds, tile_k(stage), column + 16 * g);
              }
            }
          });
      __syncthreads();  // every thread's copies, and tile_dout is written next
    }
    const int count = tile.count - own;
    if (call.shared) {
      const int64_t row = chunk * call.queries_per_item + q_row + own;
      store_rows<D>(partial + row * q_stride + h * D, q_stride, count, acc, call.scale);
    } else {
      store_rows<D>(dq + (q_row + own) * q_stride + h * D, q_stride, count, acc, {call.scale, call.scale}, tile_q, own);
    }
  }
}

// dk and dv of a tile of keys, summed over the query heads of the group in their order. Either may be null.
template <int D>
__global__ void __launch_bounds__(threads, 2) dkdv_kernel(const Call call, const bfloat16* q, const bfloat16* k, const bfloat16* v,
                                                          const bfloat16* dout, const Row* saved, bfloat16* dk, bfloat16* dv) {
  constexpr int G = D > 64 ? 1 : 2;
  DYNAMIC_SHARED(bfloat16, tile_k);
  bfloat16* tile_v = v == k ? tile_k : tile_k + tile_size<D>;
  const auto tile_q = [=](int stage) { return tile_k + (2 + 2 * stage) * tile_size<D>; };
  const auto tile_dout = [=](int stage) { return tile_q(stage) + tile_size<D>; };
  const int64_t q_stride = int64_t(call.H) * D, k_stride = int64_t(call.Hkv) * D;
  const int thread = int(threadIdx.x), own = 16 * warp();
  zero_unowned(dk, call.key_offsets, k_stride);
  zero_unowned(dv, call.key_offsets, k_stride);

  for (int64_t unit = blockIdx.x; unit < call.key_slots(ROWS) * call.Hkv; unit += gridDim.x) {
    const Tile tile = call.key_tile(unit / call.Hkv, ROWS);
    if (tile.count == 0) continue;
    const Item item = call.item(tile.item);
    const int key_head = int(unit % call.Hkv), group = call.H / call.Hkv;
    const int64_t at = (item.first_key + tile.start) * k_stride + key_head * D;
    __syncthreads();  // the tiles of the unit before are still being read
    copy_tile<D, ROWS, threads>(tile_k, k + at, k_stride, tile.count, thread);
    if (v != k) copy_tile<D, ROWS, threads>(tile_v, v + at, k_stride, tile.count, thread);
    const int from[2] = {call.seen_from(item, tile.start + own + fragment_row(0)),
                         call.seen_from(item, tile.start + own + fragment_row(2))};
    Sums acc_k[D / 16], acc_v[D / 16];
    clear<D>(acc_k);
    clear<D>(acc_v);

#pragma unroll 1
    for (int h = key_head * group; h < (key_head + 1) * group; h++) {
      const int64_t q_row = call.shared ? 0 : item.first_query;
      const Row* head_saved = saved + h * call.Tq + item.first_query;
      stream(
          call.first_query_of(item, tile.start) / COLS * COLS, item.queries,
          [&](int start, int stage) {
            copy_tile<D, COLS, threads>(tile_q(stage), q + (q_row + start) * q_stride + h * D, q_stride, item.queries - start, thread);
            copy_tile<D, COLS, threads>(tile_dout(stage), dout + (item.first_query + start) * q_stride + h * D, q_stride,
                                        item.queries - start, thread);
          },
          [&](int start, int stage) {
            if (own >= tile.count) return;
#pragma unroll 1
            for (int column = 0; column < min(COLS, item.queries - start); column += 16 * G) {
              Sums s[G], dp[G];
              scores<D>(s, tile_k, own, tile_q(stage), column);
              Row columns[G][4];  // only now: at D 128 registers are short
#pragma unroll
              for (int i = 0; i < 4 * G; i++)
                columns[i / 4][i % 4] = head_saved[min(start + column + i / 4 * 16 + fragment_column(i / 2 % 2, i), item.queries - 1)];
#pragma unroll
              for (int g = 0; g < G; g++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                  const int query = start + column + 16 * g + fragment_column(i / 4, i % 4);
                  const bool seen = query >= from[i / 2 % 2] && query < item.queries;
                  float& x = s[g][i / 4][i % 4];
                  x = seen ? fast_exp2(x * (call.scale * log2_e) - columns[g][i / 4 * 2 + i % 2].shift) : 0.0f;
                }
                uint32_t p[4];
                round_left(p, s[g]);
                accumulate<D>(acc_v, p, tile_dout(stage), column + 16 * g);
              }
              scores<D>(dp, tile_v, own, tile_dout(stage), column);
#pragma unroll
              for (int g = 0; g < G; g++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {  // a key that is not seen has p = 0
                  const float p = s[g][i / 4][i % 4];
                  float& x = dp[g][i / 4][i % 4];
                  x = p == 0 ? 0.0f : p * (x - columns[g][i / 4 * 2 + i % 2].delta);
                }
                uint32_t ds[4];
                round_left(ds, dp[g]);
                accumulate<D>(acc_k, ds, tile_q(stage), column + 16 * g);
              }
            }
          });
    }
    __syncthreads();  // every thread's copies, also where the item has no queries
    const int64_t to = at + own * k_stride;
    if (dk) store_rows<D>(dk + to, k_stride, tile.count - own, acc_k, {call.scale, call.scale}, tile_k, own);
    if (dv) store_rows<D>(dv + to, k_stride, tile.count - own, acc_v, {1, 1}, tile_k, own);
  }
}

}  // namespace galago::cuda::attention::tiles
