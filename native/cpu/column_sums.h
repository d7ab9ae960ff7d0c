// Sums over the rows of a matrix: bias gradients.
#pragma once
#include "dispatch.h"
#include "scratch.h"

namespace galago::cpu {

// out[j] = sum over i of x[i * columns + j]. Rows are summed in chunks that follow from the shape, chunks in order; `prepare`
// (begin, end) is called first on each chunk of rows, to compute them while they stay in cache. Uses ScratchSlot::kernel.
// Without `out` only `prepare` runs.
template <class T, class Prepare>
void column_sums(int64_t rows, int64_t columns, const T* x, T* out, const Prepare& prepare) {
  const int64_t grain = row_grain(columns), chunks = chunk_count(rows, grain);
  T* partial = out ? scratch<T>(ScratchSlot::kernel, chunks * columns) : nullptr;
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    prepare(begin, end);
    if (!out) return;
    vectorize<T>([&] {
      T* __restrict sum = partial + begin / grain * columns;
      for (int64_t j = 0; j < columns; j++) sum[j] = T(0);
      for (int64_t i = begin; i < end; i++) {
        const T* __restrict row = x + i * columns;
        for (int64_t j = 0; j < columns; j++) sum[j] += row[j];
      }
    });
  });
  if (!out) return;
  vectorize<T>([&] {
    T* __restrict sum = out;
    for (int64_t j = 0; j < columns; j++) sum[j] = T(0);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      const T* __restrict row = partial + chunk * columns;
      for (int64_t j = 0; j < columns; j++) sum[j] += row[j];
    }
  });
}

template <class T>
void column_sums(int64_t rows, int64_t columns, const T* x, T* out) {
  column_sums(rows, columns, x, out, [](int64_t, int64_t) {});
}

}  // namespace galago::cpu
