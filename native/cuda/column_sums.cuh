/*
Sums down columns of what a functor yields for (row, column), K values in one pass, group of rows by group:
out[k][g][c] = scale * sum over the rows r of group g of term(r, c)[k]. A matrix that is read in packs has a column for each pack, and
K values in it.

Rows are cut into chunks of 256. A block takes one chunk of a strip of up to 32 columns: its threads add every ty-th row, then the first
thread of a column adds the others' sums in their order. More chunks than one leave float32 partials, (K, groups, chunks, columns),
which are summed in the same way: the order follows from the shape alone.
*/
#pragma once
#include "vec.cuh"

namespace galago::cuda {

constexpr int64_t column_chunk = 256;

template <int K, class T>
struct ColumnOutputs {
  T* to[K];      // null: not wanted
  int step = 1;  // from one column to the next
};

// Of a matrix in packs of K: value k of pack c is column K c + k.
template <int K, class T>
ColumnOutputs<K, T> in_packs(T* out) {
  ColumnOutputs<K, T> outputs;
  for (int k = 0; k < K; k++) outputs.to[k] = out + k;
  outputs.step = K;
  return outputs;
}

// A term adds its K values to `sums`. This one reads what an earlier pass left, K matrices `stride` apart.
template <int K, class T>
struct MatrixTerm {
  const T* x;
  int64_t columns, stride;
  __device__ void operator()(int64_t row, int64_t column, float (&sums)[K]) const {
#pragma unroll
    for (int k = 0; k < K; k++) sums[k] += to_float(x[k * stride + row * columns + column]);
  }
};

// A matrix with `packs` packs in a row.
template <class T>
struct PackTerm {
  const T* x;
  int64_t packs;
  __device__ void operator()(int64_t row, int64_t column, float (&sums)[pack_width<T>]) const {
    const Pack<T> pack = load_pack(x + (row * packs + column) * pack_width<T>);
#pragma unroll
    for (int k = 0; k < pack_width<T>; k++) sums[k] += to_float(pack.v[k]);
  }
};

template <int K, class T, class Term>
__global__ void __launch_bounds__(256) sum_columns_kernel(Term term, int64_t groups, int64_t rows, int64_t columns, int64_t chunks,
                                                          int strip, ColumnOutputs<K, T> out, float scale) {
  SHARED(float[K][256], shared);
  const int64_t strips = (columns + strip - 1) / strip;
  const int x = int(threadIdx.x) % strip, y = int(threadIdx.x) / strip, lines = 256 / strip;
  for (int64_t piece = blockIdx.x; piece < groups * chunks * strips; piece += gridDim.x) {
    const int64_t column = piece % strips * strip + x, chunk = piece / strips % chunks, group = piece / strips / chunks;
    const int64_t end = chunk * column_chunk + column_chunk < rows ? chunk * column_chunk + column_chunk : rows;
    float sums[K] = {};
    if (column < columns) {
#pragma unroll 4
      for (int64_t r = chunk * column_chunk + y; r < end; r += lines) term(group * rows + r, column, sums);
    }
#pragma unroll
    for (int k = 0; k < K; k++) shared[k][threadIdx.x] = sums[k];
    __syncthreads();
    if (y == 0 && column < columns) {
#pragma unroll
      for (int k = 0; k < K; k++) {
        float total = 0;
        for (int line = 0; line < lines; line++) total += shared[k][line * strip + x];
        if (out.to[k]) out.to[k][((group * chunks + chunk) * columns + column) * out.step] = from_float<T>(scale * total);
      }
    }
    __syncthreads();
  }
}

// `groups` groups of `rows` rows each, row r of group g being row g * rows + r of the term. A sum over no rows is 0.
template <int K, class T, class Term>
void sum_columns(const Term& term, int64_t groups, int64_t rows, int64_t columns, const ColumnOutputs<K, T>& out, float scale = 1) {
  const int64_t chunks = rows > column_chunk ? (rows + column_chunk - 1) / column_chunk : 1;
  int strip = 32;
  while (strip > 1 && strip / 2 >= columns) strip /= 2;
  const unsigned grid = grid_of(groups * chunks * ((columns + strip - 1) / strip));
  if (chunks == 1) {
    launch(sum_columns_kernel<K, T, Term>, grid, 256, 0, term, groups, rows, columns, chunks, strip, out, scale);
    return;
  }
  const int64_t stride = groups * chunks * columns;
  const Scratch<float> partials(K * stride);
  ColumnOutputs<K, float> to;
  for (int k = 0; k < K; k++) to.to[k] = partials.data() + k * stride;
  launch(sum_columns_kernel<K, float, Term>, grid, 256, 0, term, groups, rows, columns, chunks, strip, to, 1.0f);
  sum_columns(MatrixTerm<K, float>{partials.data(), columns, stride}, groups, chunks, columns, out, scale);
}

// out (groups, columns) = scale * the sums of x (groups, rows, columns) over its rows.
template <class From, class T>
void column_sums(const From* x, int64_t groups, int64_t rows, int64_t columns, T* out, float scale = 1) {
  constexpr int width = pack_width<From>;
  if (packed<From>(columns, x))
    sum_columns(PackTerm<From>{x, columns / width}, groups, rows, columns / width, in_packs<width>(out), scale);
  else
    sum_columns(MatrixTerm<1, From>{x, columns, 0}, groups, rows, columns, ColumnOutputs<1, T>{{out}}, scale);
}

}  // namespace galago::cuda
