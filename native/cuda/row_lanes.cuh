// How threads cover the rows of a matrix: `width` neighbouring threads take a row each and pass over its columns, V at a time (V is 1, or
// a 16-byte pack where rows are aligned). A width is a power of two up to a warp, or the whole block for long rows.
#pragma once
#include "reduce.cuh"
#include "vec.cuh"

namespace galago::cuda {

constexpr int row_block = 256;  // threads of a block that works on rows

// V is 1, or a number of whole packs: 8 columns of float32 beside a pack of bfloat16 are two.
template <int V, class T>
__device__ __forceinline__ void load_columns(const T* from, float (&x)[V]) {
  if constexpr (V == 1) {
    x[0] = to_float(*from);
  } else {
    static_assert(V % pack_width<T> == 0);
#pragma unroll
    for (int part = 0; part < V; part += pack_width<T>) {
      const Pack<T> pack = load_pack(from + part);
#pragma unroll
      for (int v = 0; v < pack_width<T>; v++) x[part + v] = to_float(pack.v[v]);
    }
  }
}

template <int V, class T>
__device__ __forceinline__ void store_columns(T* to, const float (&x)[V]) {
  if constexpr (V == 1) {
    *to = from_float<T>(x[0]);
  } else {
    static_assert(V % pack_width<T> == 0);
#pragma unroll
    for (int part = 0; part < V; part += pack_width<T>) {
      Pack<T> pack;
#pragma unroll
      for (int v = 0; v < pack_width<T>; v++) pack.v[v] = from_float<T>(x[part + v]);
      store_pack(to + part, pack);
    }
  }
}

// Sum over the threads of a row; all threads of the warp (of the block, for the width of a block) call.
__device__ __forceinline__ float row_sum(float x, int width) {
  if (width > warp_size) return block_sum(x);
  for (int offset = width / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(full_mask, x, offset);
  return x;
}
__device__ __forceinline__ float row_max(float x, int width) {
  if (width > warp_size) return block_max(x);
  for (int offset = width / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(full_mask, x, offset));
  return x;
}

// Sum over the rows that a warp holds, column by column: the threads `width` apart.
__device__ __forceinline__ float sum_of_rows(float x, int width) {
  for (int offset = warp_size / 2; offset >= width; offset /= 2) x += __shfl_xor_sync(full_mask, x, offset);
  return x;
}
__device__ __forceinline__ float max_of_rows(float x, int width) {
  for (int offset = warp_size / 2; offset >= width; offset /= 2) x = fmaxf(x, __shfl_xor_sync(full_mask, x, offset));
  return x;
}

// Threads for a row of that many columns, at most a warp.
inline int lanes_for(int64_t columns, int V) {
  int width = 1;
  while (width < warp_size && width * V < columns) width *= 2;
  return width;
}

// The same, or a whole block past `longest` columns.
inline int threads_for(int64_t columns, int V, int64_t longest = 2048) { return columns > longest ? row_block : lanes_for(columns, V); }

// Calls body with the largest V that all rows at these addresses allow: `dispatch_columns<T>([&]<int V>() { ... }, D, x, out);`
template <class T, class F, class... Pointers>
void dispatch_columns(F&& body, int64_t columns, Pointers... pointers) {
  if (packed<T>(columns, pointers...))
    body.template operator()<pack_width<T>>();
  else
    body.template operator()<1>();
}

}  // namespace galago::cuda
