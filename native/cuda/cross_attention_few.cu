/*
cross_attention for up to 32 queries per item (up to 16 at head size 128), in bfloat16 on the tensor cores: bound by the bytes of k, v, dk
and dv, each of which is read or written once.

A block owns one head of one item. The queries stay in shared memory; the keys are cut into slices, slice i belongs to warp i mod 4, and
each warp streams its own through a ring of asynchronous copies: no block barrier in the loop. What the warps hold at the end is merged
in their order.
  forward   S = Q K^T per slice of 16 or 32 keys, online softmax per warp, out += P V in registers; merged with the maxima and sums.
  backward  a slice of 16 keys is the rows of the product: S^T = K Q^T, dP^T = V dO^T, so the sums of P^T and dS^T are, rounded, the left
            side of dv = P^T dO and dk = dS^T Q. Transposed within the registers dS^T becomes the left side of dq += dS K, kept to the end.
Queries shared by all items: a block owns one head of a chunk of items in backward.

Shared memory, at most 99 KB: q (and dout) QUERIES x D, the ring of 4 warps x stages x 2 slices; the merge, 4 x QUERIES x (D + 8) floats,
reuses the ring. Registers: QUERIES D / 32 for out or dq (at most 64), in backward D / 2 for dv or dk.
*/
#include "attention_few.cuh"
#include "attention_fragments.cuh"

namespace galago::cuda::attention::few {

// One kernel's shared memory. KEYS of a slice, TILES of queries.
template <int D, int QUERIES, int KEYS_, int STAGES_, int TILES>
struct Layout {
  static constexpr int KEYS = KEYS_, STAGES = STAGES_, slice_size = KEYS * D, LD = D + 8;
  static constexpr size_t tile_bytes = TILES * QUERIES * D * sizeof(bfloat16), rows_bytes = warps * QUERIES * sizeof(float2);
  static constexpr size_t ring_bytes = warps * STAGES * 2 * slice_size * sizeof(bfloat16);
  static constexpr size_t merge_bytes = warps * QUERIES * LD * sizeof(float);
  static constexpr size_t bytes = tile_bytes + rows_bytes + (ring_bytes > merge_bytes ? ring_bytes : merge_bytes);
  static_assert(bytes <= 99 * 1024, "the smallest limit of the devices");
};
template <int D, int QUERIES>
using Forward = Layout<D, QUERIES, (D > 64 ? 16 : 32), (D > 32 ? 2 : 3), 1>;
template <int D, int QUERIES>
using Backward = Layout<D, QUERIES, 16, (D > 64 ? 2 : 3), 2>;

// The slices of this warp: `copy(start, stage)` starts the copies of one, `compute(start, stage)` uses it. Copies that the block has
// started before are complete when the first slice is computed.
template <class L, class Copy, class Compute>
__device__ __forceinline__ void stream(int keys, Copy&& copy, Compute&& compute) {
  constexpr int step = warps * L::KEYS;
  commit_copies();
  int next = warp() * L::KEYS;
#pragma unroll
  for (int stage = 0; stage < L::STAGES - 1; stage++, next += step) {
    if (next < keys) copy(next, stage);
    commit_copies();
  }
  wait_copies<L::STAGES - 1>();
  __syncthreads();
  int stage = 0;
#pragma unroll 1
  for (int start = warp() * L::KEYS; start < keys; start += step, next += step) {
    if (next < keys) copy(next, stage ? stage - 1 : L::STAGES - 1);
    commit_copies();
    wait_copies<L::STAGES - 1>();
    __syncwarp();
    compute(start, stage);
    __syncwarp();  // this stage is written next
    stage = stage + 1 < L::STAGES ? stage + 1 : 0;
  }
  wait_copies<0>();
}

// Sums over 16 rows to a warp's part of the merge.
template <int D, int LD>
__device__ __forceinline__ void put_part(float* part, int row, const Sums (&acc)[D / 16], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < D / 2; i += 2) {
    const int half = i / 2 % 2;
    float* to = part + (row + fragment_row(i % 4)) * LD + i / 8 * 16 + fragment_column(i / 4 % 2, 0);
    to[0] = factor[half] * acc[i / 8][i / 4 % 2][i % 4];
    to[1] = factor[half] * acc[i / 8][i / 4 % 2][i % 4 + 1];
  }
}
// The sum of the warps' parts, in their order, to x; all threads call, 8 values at a time.
template <int D, int QUERIES, int LD, class T>
__device__ __forceinline__ void store_merged(T* x, int64_t stride, int count, const float* parts, float factor) {
  for (int i = int(threadIdx.x); i < count * (D / 8); i += threads) {
    const int row = i / (D / 8), d = i % (D / 8) * 8;
#pragma unroll
    for (int at = 0; at < 8; at += pack_width<T>) {
      Pack<T> pack;
#pragma unroll
      for (int e = 0; e < pack_width<T>; e++) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < warps; w++) sum += parts[(w * QUERIES + row) * LD + d + at + e];
        pack.v[e] = from_float<T>(factor * sum);
      }
      store_pack(x + row * stride + d + at, pack);
    }
  }
}

template <int D, int QUERIES>
__global__ void __launch_bounds__(threads, 2)
    forward_kernel(const Call call, const bfloat16* q, const bfloat16* k, const bfloat16* v, bfloat16* out, float* lse) {
  using L = Forward<D, QUERIES>;
  constexpr int M = QUERIES / 16, G = L::KEYS / 16;
  DYNAMIC_SHARED(bfloat16, tile_q);
  float2* stats = reinterpret_cast<float2*>(tile_q + QUERIES * D);  // maximum and sum of each warp's rows
  bfloat16* ring = reinterpret_cast<bfloat16*>(stats + warps * QUERIES);
  float* parts = reinterpret_cast<float*>(ring);
  const auto slice_k = [=](int stage) { return ring + (warp() * L::STAGES + stage) * 2 * L::slice_size; };
  const auto slice_v = [=](int stage) { return v == k ? slice_k(stage) : slice_k(stage) + L::slice_size; };
  const int64_t q_stride = int64_t(call.H) * D, k_stride = int64_t(call.Hkv) * D;
  const int queries = call.queries_per_item;

  for (int64_t unit = blockIdx.x; unit < int64_t(call.B) * call.H; unit += gridDim.x) {
    const int h = int(unit % call.H), key_head = h / (call.H / call.Hkv);
    const Item item = call.item(int(unit / call.H));
    const int64_t at = item.first_key * k_stride + key_head * D;
    const int keys = call.visible_keys(item, queries);
    __syncthreads();  // parts and stats of the unit before are still being read
    copy_tile<D, QUERIES, threads>(tile_q, q + (call.shared ? 0 : item.first_query) * q_stride + h * D, q_stride, queries,
                                   int(threadIdx.x));
    Sums acc[M][D / 16];
    Softmax softmax[M];
    int seen[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
      clear<D>(acc[m]);
      seen[m][0] = call.keys_seen(item, 16 * m + fragment_row(0));
      seen[m][1] = call.keys_seen(item, 16 * m + fragment_row(2));
    }
    stream<L>(
        keys,
        [&](int start, int stage) {
          copy_tile<D, L::KEYS, warp_size>(slice_k(stage), k + at + start * k_stride, k_stride, keys - start, lane());
          if (v != k) copy_tile<D, L::KEYS, warp_size>(slice_v(stage), v + at + start * k_stride, k_stride, keys - start, lane());
        },
        [&](int start, int stage) {
          Sums s[M][G];
#pragma unroll
          for (int m = 0; m < M; m++) scores<D>(s[m], tile_q, 16 * m, slice_k(stage), 0);
#pragma unroll
          for (int g = 0; g < G; g++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
              const int key = start + 16 * g + fragment_column(c / 2, c);
              const bool masked = call.masked(item, key);
#pragma unroll
              for (int r = 0; r < 2 * M; r++) {
                float& x = s[r / 2][g][c / 2][r % 2 * 2 + c % 2];
                x = key < seen[r / 2][r % 2] && !masked ? x * (call.scale * log2_e) : hidden;
              }
            }
          uint32_t p[M][G][4];
#pragma unroll
          for (int m = 0; m < M; m++) {
            float shrink[2];
            softmax[m](s[m], shrink);
#pragma unroll
            for (int i = 0; i < D / 2; i++) acc[m][i / 8][i / 4 % 2][i % 4] *= shrink[i / 2 % 2];
#pragma unroll
            for (int g = 0; g < G; g++) round_left(p[m][g], s[m][g]);
          }
#pragma unroll
          for (int g = 0; g < G; g++)
#pragma unroll
            for (int step = 0; step < D / 16; step++) {
              uint32_t b[4];
              load_right_rows<D>(b, slice_v(stage), 16 * g, step);
#pragma unroll
              for (int m = 0; m < M; m++) multiply(acc[m][step], p[m][g], b);
            }
        });
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
      const float sum = row_sum(softmax[r / 2].sum[r % 2]);
      if (lane() % 4 == 0) stats[warp() * QUERIES + 8 * r + fragment_row(0)] = {softmax[r / 2].top[r % 2], sum};
    }
    __syncthreads();
    // Maximum and sum of a row over all warps, in their order.
    const auto merged = [&](int row) {
      float2 all{hidden, 0};
#pragma unroll
      for (int w = 0; w < warps; w++) all.x = fmaxf(all.x, stats[w * QUERIES + row].x);
#pragma unroll
      for (int w = 0; w < warps; w++) {
        const float2 one = stats[w * QUERIES + row];
        if (one.y > 0) all.y += one.y * fast_exp2(one.x - all.x);
      }
      return all;
    };
#pragma unroll
    for (int m = 0; m < M; m++) {
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float2 all = merged(16 * m + fragment_row(2 * half));
        const float top = softmax[m].top[half];
        factor[half] = top == hidden ? 0.0f : fast_exp2(top - all.x) / all.y;
      }
      put_part<D, L::LD>(parts + warp() * QUERIES * L::LD, 16 * m, acc[m], factor);
    }
    __syncthreads();
    if (int(threadIdx.x) < queries) {
      const float2 all = merged(int(threadIdx.x));
      lse[h * call.Tq + item.first_query + threadIdx.x] = all.y > 0 ? (all.x + log2f(all.y)) * ln_2 : hidden;
    }
    store_merged<D, QUERIES, L::LD>(out + item.first_query * q_stride + h * D, q_stride, queries, parts, 1);
  }
}

// H = Hkv. dq, dk, dv may be null.
template <int D, int QUERIES>
__global__ void __launch_bounds__(threads, 2)
    backward_kernel(const Call call, const Chunks chunks, const bfloat16* q, const bfloat16* k, const bfloat16* v, const bfloat16* out,
                    const float* lse, const bfloat16* dout, bfloat16* dq, bfloat16* dk, bfloat16* dv, float* partial) {
  using L = Backward<D, QUERIES>;
  constexpr int M = QUERIES / 16;
  DYNAMIC_SHARED(bfloat16, tile_q);
  bfloat16* tile_dout = tile_q + QUERIES * D;
  Row* rows = reinterpret_cast<Row*>(tile_dout + QUERIES * D);
  bfloat16* ring = reinterpret_cast<bfloat16*>(rows + warps * QUERIES);
  float* parts = reinterpret_cast<float*>(ring);
  const auto slice_k = [=](int stage) { return ring + (warp() * L::STAGES + stage) * 2 * L::slice_size; };
  const auto slice_v = [=](int stage) { return v == k ? slice_k(stage) : slice_k(stage) + L::slice_size; };
  const int64_t stride = int64_t(call.H) * D;
  const int queries = call.queries_per_item, thread = int(threadIdx.x);
  const int items = call.shared ? chunks.items : 1;
  zero_unowned(dk, call.key_offsets, stride);
  zero_unowned(dv, call.key_offsets, stride);

  for (int64_t unit = blockIdx.x; unit < int64_t((call.B + items - 1) / items) * call.H; unit += gridDim.x) {
    const int h = int(unit % call.H);
    const int64_t chunk = unit / call.H;
    Sums acc_q[M][D / 16];
#pragma unroll
    for (int m = 0; m < M; m++) clear<D>(acc_q[m]);
    for (int b = int(chunk) * items; b < min(call.B, int(chunk + 1) * items); b++) {
      const Item item = call.item(b);
      const int64_t first_row = item.first_query * stride + h * D, at = item.first_key * stride + h * D;
      __syncthreads();  // the tiles of the item before, or the parts, are still being read
      copy_tile<D, QUERIES, threads>(tile_q, q + (call.shared ? h * D : first_row), stride, queries, thread);
      copy_tile<D, QUERIES, threads>(tile_dout, dout + first_row, stride, queries, thread);
      if (thread < 4 * QUERIES) {  // whole warps; delta = dot(out, dout), four lanes per row
        const int row = thread / 4;
        float delta = 0;
        if (row < queries)
          for (int d = thread % 4 * 8; d < D; d += 32) {
            const Pack<bfloat16> x = load_pack(out + first_row + row * stride + d), y = load_pack(dout + first_row + row * stride + d);
#pragma unroll
            for (int e = 0; e < 8; e++) delta += to_float(x.v[e]) * to_float(y.v[e]);
          }
        delta = row_sum(delta);
        const float row_lse = row < queries ? lse[h * call.Tq + item.first_query + row] : hidden;
        if (thread % 4 == 0) rows[row] = {row_lse == hidden ? 0.0f : row_lse * log2_e, delta};
      }
      stream<L>(
          item.keys,
          [&](int start, int stage) {
            const int count = item.keys - start;
            copy_tile<D, L::KEYS, warp_size>(slice_k(stage), k + at + start * stride, stride, count, lane());
            if (v != k) copy_tile<D, L::KEYS, warp_size>(slice_v(stage), v + at + start * stride, stride, count, lane());
          },
          [&](int start, int stage) {
            const int from[2] = {call.seen_from(item, start + fragment_row(0)), call.seen_from(item, start + fragment_row(2))};
            Sums s[M], dp[M];
            scores<D>(s, slice_k(stage), 0, tile_q, 0);
            scores<D>(dp, slice_v(stage), 0, tile_dout, 0);
            uint32_t p[M][4], ds[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
              for (int c = 0; c < 4; c++) {
                const int query = 16 * m + fragment_column(c / 2, c);
                const Row row = rows[query];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                  float &x = s[m][c / 2][2 * half + c % 2], &dx = dp[m][c / 2][2 * half + c % 2];
                  const bool seen = query >= from[half] && query < queries;
                  x = seen ? fast_exp2(x * (call.scale * log2_e) - row.shift) : 0.0f;
                  dx = seen ? x * (dx - row.delta) : 0.0f;
                }
              }
              round_left(p[m], s[m]);
              round_left(ds[m], dp[m]);
            }
            if (dq) {
              uint32_t a[M][4];
#pragma unroll
              for (int m = 0; m < M; m++) transpose_left(a[m], ds[m]);
#pragma unroll
              for (int step = 0; step < D / 16; step++) {
                uint32_t b[4];
                load_right_rows<D>(b, slice_k(stage), 0, step);
#pragma unroll
                for (int m = 0; m < M; m++) multiply(acc_q[m][step], a[m], b);
              }
            }
            // The slice of v, and then of k, has been read: it passes dv and dk on to wide stores.
            if (dv) {
              Sums acc[D / 16];
              clear<D>(acc);
#pragma unroll
              for (int m = 0; m < M; m++) accumulate<D>(acc, p[m], tile_dout, 16 * m);
              store_rows<D>(dv + at + start * stride, stride, item.keys - start, acc, {1, 1}, slice_v(stage), 0);
            }
            if (dk) {
              Sums acc[D / 16];
              clear<D>(acc);
#pragma unroll
              for (int m = 0; m < M; m++) accumulate<D>(acc, ds[m], tile_q, 16 * m);
              store_rows<D>(dk + at + start * stride, stride, item.keys - start, acc, {call.scale, call.scale}, slice_k(stage), 0);
            }
          });
    }
    if (!dq) continue;
    __syncthreads();  // the ring is still being used
#pragma unroll
    for (int m = 0; m < M; m++) put_part<D, L::LD>(parts + warp() * QUERIES * L::LD, 16 * m, acc_q[m], {1, 1});
    __syncthreads();
    if (call.shared)
      store_merged<D, QUERIES, L::LD>(partial + chunk * queries * stride + h * D, stride, queries, parts, call.scale);
    else
      store_merged<D, QUERIES, L::LD>(dq + chunk * queries * stride + h * D, stride, queries, parts, call.scale);
  }
}

// ---- launchers

// Calls body with the head size and the number of queries, rounded up, if the registers hold QUERIES x D sums.
template <class F>
static bool dispatch(const Call& call, F&& body) {
  if (!call.whole_packs || call.query_offsets.at || call.queries_per_item > 32) return false;
  const bool one_tile = call.queries_per_item <= 16;
  switch (call.D) {
    case 16: return one_tile ? body.template operator()<16, 16>() : body.template operator()<16, 32>(), true;
    case 32: return one_tile ? body.template operator()<32, 16>() : body.template operator()<32, 32>(), true;
    case 64: return one_tile ? body.template operator()<64, 16>() : body.template operator()<64, 32>(), true;
    case 128:
      if (one_tile) body.template operator()<128, 16>();
      return one_tile;
    default: return false;
  }
}

bool forward(const Call& call, const bfloat16* q, const bfloat16* k, const bfloat16* v, bfloat16* out, float* lse) {
  return dispatch(call, [&]<int D, int QUERIES>() {
    launch(forward_kernel<D, QUERIES>, grid_of(int64_t(call.B) * call.H), threads, Forward<D, QUERIES>::bytes, call, q, k, v, out, lse);
  });
}

bool backward(const Call& call, const Chunks& chunks, const bfloat16* q, const bfloat16* k, const bfloat16* v, const bfloat16* out,
              const float* lse, const bfloat16* dout, bfloat16* dq, bfloat16* dk, bfloat16* dv, float* partial) {
  if (call.H != call.Hkv) return false;
  return dispatch(call, [&]<int D, int QUERIES>() {
    const int64_t units = int64_t(call.shared ? chunks.count : call.B) * call.H;
    launch(backward_kernel<D, QUERIES>, grid_of(std::max<int64_t>(units, 1)), threads, Backward<D, QUERIES>::bytes, call, chunks, q, k, v,
           out, lse, dout, dq, dk, dv, partial);
  });
}

}  // namespace galago::cuda::attention::few
