// A block that owns a segment of rows: weighted sums over its rows, column by column, in a fixed order.
#pragma once
#include "offsets.cuh"
#include "row_lanes.cuh"

namespace galago::cuda {

constexpr int segment_block = 128;

// store(d, sums) for every V columns from d on: sums of weight(i) row_at(i)[d + v] over the rows i of the segment. Thread groups of `width`
// take every (segment_block / width)-th row; their partial sums meet in shared memory (512 V bytes) in order of the groups. All threads of
// the block call.
template <int V, class Row, class Weight, class Store>
__device__ __forceinline__ void segment_sums(Segment segment, int64_t D, int width, const Row& row_at, const Weight& weight,
                                             const Store& store) {
  SHARED(float[segment_block * V], partial);
  const int rows = segment_block / width, row = int(threadIdx.x) / width, place = int(threadIdx.x) % width;
  for (int64_t first = 0; first < D; first += width * V) {
    const int64_t d = first + place * V;
    float sums[V] = {}, v[V];
    for (int64_t i = segment.begin + row; i < segment.end && d < D; i += rows) {
      load_columns(row_at(i) + d, v);
      const float w = weight(i);
#pragma unroll
      for (int k = 0; k < V; k++) sums[k] += w * v[k];
    }
#pragma unroll
    for (int k = 0; k < V; k++) partial[k * segment_block + threadIdx.x] = sums[k];
    __syncthreads();
    if (row == 0 && d < D) {
      for (int r = 1; r < rows; r++)
#pragma unroll
        for (int k = 0; k < V; k++) sums[k] += partial[k * segment_block + r * width + place];
      store(d, sums);
    }
    __syncthreads();  // the partial sums are still being read
  }
}

}  // namespace galago::cuda
