// Loops over the rows of a matrix, and sums over them: gradients of what all rows share, batch statistics.
#pragma once
#include <vector>

#include "dispatch.h"

namespace galago::cpu {

// out[c] = sum over rows r < R of what add_row(r, partial) adds to partial[c], c < C: a partial result per 256 rows, added in order.
// add_row is compiled for the instruction set in use.
template <class T, class F>
void sum_over_rows(int64_t R, int64_t C, T* out, F&& add_row) {
  constexpr int64_t rows_per_chunk = 256;
  const int64_t chunks = chunk_count(R, rows_per_chunk);
  std::vector<T> partial(static_cast<size_t>(chunks * C));
  parallel_for(R, rows_per_chunk, [&](int64_t begin, int64_t end) {
    T* sums = partial.data() + begin / rows_per_chunk * C;
    vectorize<T>([&] {
      for (int64_t r = begin; r < end; r++) add_row(r, sums);
    });
  });
  for (int64_t c = 0; c < C; c++) out[c] = 0;
  for (int64_t chunk = 0; chunk < chunks; chunk++)
    for (int64_t c = 0; c < C; c++) out[c] += partial[size_t(chunk * C + c)];
}

// Calls body(row) for all rows of a matrix of C columns of type T, compiled for the instruction set in use.
template <class T = float, class F>
void for_rows(int64_t R, int64_t C, F&& body) {
  parallel_for(R, row_grain(C), [&](int64_t begin, int64_t end) {
    vectorize<T>([&] {
      for (int64_t r = begin; r < end; r++) body(r);
    });
  });
}

}  // namespace galago::cpu
