// What every kernel of cross_attention knows about the call: which rows an item owns, which tiles they form, which key a query sees.
#pragma once
#include <algorithm>
#include <limits>

#include "offsets.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace galago::cuda::attention {

constexpr float log2_e = 1.4426950408889634f, ln_2 = 0.6931471805599453f;
constexpr float hidden = -std::numeric_limits<float>::infinity();  // the score of a key that a query does not see

struct Item {
  int64_t first_query, first_key;  // rows of out, rows of k
  int queries, keys;
};

// `count` consecutive rows of an item, beginning with its row `start`. Count 0: a slot without work.
struct Tile {
  int item, start, count;
};

// Tiles of jagged rows need no list: item b owns the slots from offsets[b] / rows + b up to those of item b + 1, because
// ceil(length / rows) <= floor(end / rows) - floor(begin / rows) + 1. At most one slot per item stays empty.
__host__ __device__ constexpr int64_t jagged_slots(int64_t total, int64_t items, int rows) { return items ? total / rows + items : 0; }

struct Call {
  Offsets key_offsets, query_offsets;  // the second undefined: `queries_per_item` rows each
  const int32_t* mask;                 // (Tk) or null
  int64_t Tq, Tk;                      // rows of out, rows of k
  int B, H, Hkv, D;
  int queries_per_item;
  bool shared;  // q has the rows of one item, used by all
  bool causal;
  bool whole_packs;  // rows of all tensors may be read 16 bytes at a time
  float scale;

  __device__ Item item(int b) const {
    const Segment keys = key_offsets[b];
    if (!query_offsets.at) return {int64_t(b) * queries_per_item, keys.begin, queries_per_item, int(keys.end - keys.begin)};
    const Segment queries = query_offsets[b];
    return {queries.begin, keys.begin, int(queries.end - queries.begin), int(keys.end - keys.begin)};
  }

  __host__ __device__ int tiles_per_item(int rows) const { return (queries_per_item + rows - 1) / rows; }
  __host__ __device__ int64_t query_slots(int rows) const {
    return query_offsets.at ? jagged_slots(Tq, B, rows) : int64_t(B) * tiles_per_item(rows);
  }
  __host__ __device__ int64_t key_slots(int rows) const { return jagged_slots(Tk, B, rows); }

  __device__ Tile query_tile(int64_t slot, int rows) const {
    if (query_offsets.at) return jagged_tile(query_offsets, slot, rows);
    const int tiles = tiles_per_item(rows), start = int(slot % tiles) * rows;
    return {int(slot / tiles), start, min(rows, queries_per_item - start)};
  }
  __device__ Tile key_tile(int64_t slot, int rows) const { return jagged_tile(key_offsets, slot, rows); }

  // Keys that any query before row `end` of the item sees.
  __device__ int visible_keys(const Item& item, int end) const {
    return causal ? max(0, min(item.keys, end + item.keys - item.queries)) : item.keys;
  }
  // The first query of the item that sees key `start` or a later one.
  __device__ int first_query_of(const Item& item, int start) const { return causal ? max(0, start + item.queries - item.keys) : 0; }

  // Query `row` of the item sees keys below this one that are not masked. The row may lie behind its last.
  __device__ int keys_seen(const Item& item, int row) const { return row < item.queries ? visible_keys(item, row + 1) : 0; }
  // Key j of the item is seen by queries from this one to the last. The key may lie behind its last.
  __device__ int seen_from(const Item& item, int j) const {
    return j >= item.keys || masked(item, j) ? item.queries : first_query_of(item, j);
  }
  __device__ bool masked(const Item& item, int j) const { return mask && j < item.keys && mask[item.first_key + j] < 0; }

 private:
  __device__ Tile jagged_tile(const Offsets& offsets, int64_t slot, int rows) const {
    const auto at = [&](int b) { return min(max(int64_t(offsets.at[b]), int64_t(0)), offsets.total); };
    int b = 0, end = B;  // the last item that begins at this slot or before
    while (end - b > 1) {
      const int middle = (b + end) / 2;
      if (at(middle) / rows + middle <= slot)
        b = middle;
      else
        end = middle;
    }
    const int64_t begin = at(b), start = (slot - begin / rows - b) * rows;
    const int64_t count = min(int64_t(rows), at(b + 1) - begin - start);
    return start < 0 || count <= 0 ? Tile{b, 0, 0} : Tile{b, int(start), int(count)};
  }
};

// The rows that belong to no item. All threads of the grid call; x may be null.
template <class T>
__device__ void zero_unowned(T* x, const Offsets& offsets, int64_t width) {
  if (x && offsets.at) offsets.zero_outside(x, width);
}

// ---- small kernels around the large ones

// What backward needs of a query row and head: p_ij = 2^(s_ij - shift_i) in base 2, ds_ij = p_ij (dp_ij - delta_i).
struct alignas(8) Row {
  float shift, delta;
};

// rows (H, Tq) of out, dout (Tq, H, D) and lse (H, Tq); delta_i = dot(out_i, dout_i). One thread adds the products of a head in their
// order, as simt::scores does: where an item has one key, out is its v and dp - delta is exactly 0.
template <class T>
__global__ void rows_kernel(const T* out, const T* dout, const float* lse, Row* rows, int64_t Tq, int H, int D, bool whole_packs) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < Tq * H; i += stride) {
    float delta = 0;
    if (whole_packs) {
      for (int d = 0; d < D; d += pack_width<T>) {
        const Pack<T> a = load_pack(out + i * D + d), b = load_pack(dout + i * D + d);
#pragma unroll
        for (int e = 0; e < pack_width<T>; e++) delta += to_float(a.v[e]) * to_float(b.v[e]);
      }
    } else {
      for (int d = 0; d < D; d++) delta += to_float(out[i * D + d]) * to_float(dout[i * D + d]);
    }
    const int64_t at = i % H * Tq + i / H;
    rows[at] = {lse[at] == hidden ? 0.0f : lse[at] * log2_e, delta};
  }
}

// dq = sum over chunks of partial, in chunk order. partial (chunks, n).
template <class T>
__global__ void sum_chunks_kernel(const float* partial, T* dq, int chunks, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    float sum = 0;
    for (int c = 0; c < chunks; c++) sum += partial[c * n + i];
    dq[i] = from_float<T>(sum);
  }
}

// Queries shared by all items: dq is summed per chunk of items, then over the chunks. Both follow from shapes alone.
struct Chunks {
  int count, items;  // items per chunk
  static Chunks of(int64_t B, int64_t dq_size) {
    const int64_t most = std::clamp<int64_t>((int64_t(1) << 24) / std::max<int64_t>(dq_size, 1), 1, 64);  // 64 MB
    const int64_t items = std::max<int64_t>(1, (B + most - 1) / most);
    return {int((B + items - 1) / items), int(items)};
  }
};

}  // namespace galago::cuda::attention
