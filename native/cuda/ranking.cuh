/*
The order "larger first, ties by position, NaN first" within rows, as one unsigned integer per entry, like native/cpu/ranking.h. Rows of up
to 4096 entries are sorted by a block in shared memory (bitonic: the numbers are distinct, so every network gives the same result), longer
ones all together by a radix sort of (row, rank). Shared memory: 8 bytes per entry of the next power of two, 32 KB at most.
*/
#pragma once
#include "sort.cuh"

namespace galago::cuda {

constexpr int64_t ranked_in_block = 4096;

// Ascending order of the result: NaN first, then falling values.
__device__ __forceinline__ uint32_t rank_of(float value) {
  const uint32_t bits = value != value ? 0x7fc00000u : __float_as_uint(value + 0.0f);  // -0 + 0 = 0: zeros are equal
  return ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
}

// Entries of row b that take part: lengths[b], or all L.
__device__ __forceinline__ int64_t ranked_length(const int32_t* lengths, int64_t b, int64_t L) {
  return lengths ? (lengths[b] < 0 ? 0 : lengths[b] < L ? lengths[b] : L) : L;
}

// write(b, i, column) for i < outputs: the column of the i-th entry of row b, -1 behind the row's length.
template <class T, class Write>
__global__ void rank_rows_kernel(const T* x, const int32_t* lengths, int64_t B, int64_t L, int64_t outputs, int padded, Write write,
                                 IndexReport report) {
  DYNAMIC_SHARED(uint64_t, entry);
  for (int64_t b = blockIdx.x; b < B; b += gridDim.x) {
    const int64_t n = ranked_length(lengths, b, L);
    if (threadIdx.x == 0 && lengths && lengths[b] != n) report(b, lengths[b]);
    for (int i = threadIdx.x; i < padded; i += blockDim.x)
      entry[i] = i < n ? uint64_t(rank_of(to_float(x[b * L + i]))) << 32 | uint32_t(i) : ~0ull;
    __syncthreads();
    for (int size = 2; size <= padded; size *= 2)
      for (int gap = size / 2; gap > 0; gap /= 2) {
        for (int pair = threadIdx.x; pair < padded / 2; pair += blockDim.x) {
          const int low = 2 * gap * (pair / gap) + pair % gap, high = low + gap;
          const uint64_t a = entry[low], c = entry[high];
          const bool swap = (low & size) == 0 ? a > c : a < c;
          if (swap) entry[low] = c, entry[high] = a;
        }
        __syncthreads();
      }
    for (int64_t i = threadIdx.x; i < outputs; i += blockDim.x) write(b, i, i < n ? int32_t(uint32_t(entry[i])) : -1);
    __syncthreads();
  }
}

template <class T>
__global__ void rank_keys_kernel(const T* x, const int32_t* lengths, uint64_t* keys, int32_t* positions, int64_t B, int64_t L,
                                 IndexReport report) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < B * L; i += stride) {
    const int64_t b = i / L, column = i - b * L, n = ranked_length(lengths, b, L);
    if (column == 0 && lengths && lengths[b] != n) report(b, lengths[b]);
    keys[i] = uint64_t(b) << 32 | (column < n ? rank_of(to_float(x[i])) : 0xffffffffu);
    positions[i] = int32_t(i);
  }
}

template <class Write>
__global__ void write_ranked_kernel(const int32_t* positions, const int32_t* lengths, int64_t B, int64_t L, int64_t outputs, Write write) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; k < B * outputs; k += stride) {
    const int64_t b = k / outputs, i = k - b * outputs;
    write(b, i, i < ranked_length(lengths, b, L) ? int32_t(positions[b * L + i] - b * L) : -1);
  }
}

// ---- launcher

template <class T, class Write>
void rank_rows(const T* x, const int32_t* lengths, int64_t B, int64_t L, int64_t outputs, const Write& write, IndexReport report) {
  if (L <= ranked_in_block) {
    int padded = 2;
    while (padded < L) padded *= 2;
    const int threads = padded / 2 < warp_size ? warp_size : padded / 2 < 512 ? padded / 2 : 512;
    launch(rank_rows_kernel<T, Write>, grid_of(B), threads, padded * sizeof(uint64_t), x, lengths, B, L, outputs, padded, write, report);
    return;
  }
  RadixSort<uint64_t> order(B * L);
  launch(rank_keys_kernel<T>, grid_of((B * L + 255) / 256), 256, 0, x, lengths, order.keys(), order.positions(), B, L, report);
  order.sort(32 + bits_for(uint64_t(B)));
  launch(write_ranked_kernel<Write>, grid_of((B * outputs + 255) / 256), 256, 0, order.positions(), lengths, B, L, outputs, write);
}

}  // namespace galago::cuda
