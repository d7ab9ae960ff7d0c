/*
Sums over the rows of a matrix, in an order that follows from its shape alone: rows are cut into chunks of 256, a block sums one chunk of
a strip of columns in float32, and a second kernel adds the partial sums of a column in a fixed order. One chunk needs no second kernel.

  column_sums(rows, columns, x, out)           out (columns) = sum of x (rows, columns) over its rows
  column_sums_of(rows, columns, source, out)   of what a device functor yields: `source.load(row, column, v)` fills float v[WIDTH] with
                                               the WIDTH elements from `column` on, and may store them on the way. It is called once
                                               for every element, by threads that have consecutive columns.
  add_chunks(partials, chunks, columns, out)   out = sum over chunks of partials (chunks, columns), for kernels that make their own
                                               partial sums, one row of them per chunk of 256 rows
*/
#pragma once
#include "launch.cuh"
#include "vec.cuh"

namespace galago::cuda {

constexpr int64_t chunk_rows = 256;
constexpr int strip_lanes = 32, strip_rows = 8;  // threads of a block: along the columns, along the rows

inline int64_t row_chunks(int64_t rows) { return (rows + chunk_rows - 1) / chunk_rows; }

// Adds v over the rows of threads: (strip_lanes * WIDTH) columns by strip_rows. All threads call; the sums arrive in row 0.
template <int WIDTH>
__device__ __forceinline__ void add_thread_rows(float (&v)[WIDTH]) {
  SHARED(float[strip_rows][strip_lanes * WIDTH], sums);
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  __syncthreads();  // the values of an earlier call are still being read
#pragma unroll
  for (int k = 0; k < WIDTH; k++) sums[y][x + strip_lanes * k] = v[k];
  __syncthreads();
  if (y != 0) return;
#pragma unroll
  for (int k = 0; k < WIDTH; k++)
    for (int row = 1; row < strip_rows; row++) v[k] += sums[row][x + strip_lanes * k];
}

// partials (chunks, columns), or the sums themselves when there is one chunk
template <int WIDTH, class Source, class Out>
__global__ void column_sums_kernel(Source source, int64_t rows, int64_t columns, Out* partials) {
  constexpr int64_t strip = strip_lanes * WIDTH;
  const int64_t strips = (columns + strip - 1) / strip, chunks = (rows + chunk_rows - 1) / chunk_rows;
  for (int64_t piece = blockIdx.x; piece < strips * chunks; piece += gridDim.x) {
    const int64_t chunk = piece / strips, column = piece % strips * strip + int64_t(threadIdx.x) * WIDTH;
    const int64_t end = chunk * chunk_rows + chunk_rows < rows ? chunk * chunk_rows + chunk_rows : rows;
    float sums[WIDTH] = {};
    if (column < columns) {
      for (int64_t row = chunk * chunk_rows + threadIdx.y; row < end; row += strip_rows) {
        float v[WIDTH];
        source.load(row, column, v);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sums[k] += v[k];
      }
    }
    add_thread_rows(sums);
    if (threadIdx.y == 0 && column < columns) {
#pragma unroll
      for (int k = 0; k < WIDTH; k++) partials[chunk * columns + column + k] = from_float<Out>(sums[k]);
    }
  }
}

// Thread row y adds chunks y, y + 8, ..; then the thread rows are added in order.
template <class T>
__global__ void add_chunks_kernel(const float* partials, int64_t chunks, int64_t columns, T* out) {
  const int64_t strips = (columns + strip_lanes - 1) / strip_lanes;
  for (int64_t piece = blockIdx.x; piece < strips; piece += gridDim.x) {
    const int64_t column = piece * strip_lanes + threadIdx.x;
    float sum[1] = {};
    if (column < columns)
      for (int64_t chunk = threadIdx.y; chunk < chunks; chunk += strip_rows) sum[0] += partials[chunk * columns + column];
    add_thread_rows(sum);
    if (threadIdx.y == 0 && column < columns) out[column] = from_float<T>(sum[0]);
  }
}

// The elements of a matrix in memory.
template <class T, int WIDTH>
struct MatrixSource {
  const T* x;
  int64_t columns;

  __device__ void load(int64_t row, int64_t column, float (&v)[WIDTH]) const {
    if constexpr (WIDTH == 1) {
      v[0] = to_float(x[row * columns + column]);
    } else {
      const Pack<T> pack = load_pack(x + row * columns + column);
#pragma unroll
      for (int k = 0; k < WIDTH; k++) v[k] = to_float(pack.v[k]);
    }
  }
};

// ---- launchers

template <class T>
void add_chunks(const float* partials, int64_t chunks, int64_t columns, T* out) {
  launch(add_chunks_kernel<T>, grid_of((columns + strip_lanes - 1) / strip_lanes), dim3(strip_lanes, strip_rows), 0, partials, chunks,
         columns, out);
}

// `columns` is a multiple of WIDTH. Without rows the sums are zero.
template <int WIDTH, class Source, class T>
void column_sums_of(int64_t rows, int64_t columns, const Source& source, T* out) {
  const int64_t chunks = row_chunks(rows), strips = (columns + strip_lanes * WIDTH - 1) / (strip_lanes * WIDTH);
  const dim3 block(strip_lanes, strip_rows);
  if (chunks == 1) return launch(column_sums_kernel<WIDTH, Source, T>, grid_of(strips), block, 0, source, rows, columns, out);
  const Scratch<float> partials(chunks * columns);
  launch(column_sums_kernel<WIDTH, Source, float>, grid_of(strips * chunks), block, 0, source, rows, columns, partials.data());
  add_chunks(partials.data(), chunks, columns, out);
}

template <class T>
void column_sums(int64_t rows, int64_t columns, const T* x, T* out) {
  if (packed<T>(columns, x))
    column_sums_of<pack_width<T>>(rows, columns, MatrixSource<T, pack_width<T>>{x, columns}, out);
  else
    column_sums_of<1>(rows, columns, MatrixSource<T, 1>{x, columns}, out);
}

}  // namespace galago::cuda
