// Rows of a dense tensor by index; backward adds rows that were read more than once, in order of position.
#include <cstring>

#include "prefetch.h"
#include "row_sums.h"

namespace galago::cpu {

static int64_t row_size(const Tensor& x) {
  int64_t size = 1;
  for (int i = 1; i < x.rank; i++) size *= x.shape[i];
  return size;
}

void gather_rows_forward(const Tensor& x, const Tensor& index, Tensor& out) {
  const int64_t N = x.shape[0], D = row_size(x);
  const size_t row_bytes = size_t(D) * size_of(x.dtype);
  const char* rows = x.data<char>();
  const int32_t* from = index.data<int32_t>();
  char* to = out.data<char>();
  parallel_for(index.size(), row_grain(D), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t later = i + prefetch_distance < end ? from[i + prefetch_distance] : -1;
      if (later >= 0 && later < N) prefetch_row(rows + size_t(later) * row_bytes, int64_t(row_bytes));
      if (from[i] >= N) index_error("gatherRows", "index", i, from[i], N);
      if (from[i] < 0 || from[i] >= N)
        std::memset(to + size_t(i) * row_bytes, 0, row_bytes);
      else
        std::memcpy(to + size_t(i) * row_bytes, rows + size_t(from[i]) * row_bytes, row_bytes);
    }
  });
}

void gather_rows_backward(const Tensor& dout, const Tensor& index, Tensor& dx) {
  const int64_t N = dx.shape[0], D = row_size(dx);
  const int32_t* from = index.data<int32_t>();
  fill(dx, 0);
  const SortedRows sorted = sort_rows(index.size(), N, [=](int64_t i) { return int64_t(from[i]); });
  dispatch_float(dx.dtype, [&]<class T>() {
    const T* g = dout.data<T>();
    T* to = dx.data<T>();
    sum_runs<T>(
        sorted, D,
        [=](int64_t i) {
          return RowTerm<T>{g + i * D, T(1)};
        },
        [&](int64_t run) { return to + sorted.row(run) * D; });
  });
}

}  // namespace galago::cpu
