// The k largest entries of each row, largest first.
#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "ranking.h"

namespace galago::cpu {

void top_k(const Tensor& x, Tensor& values, Tensor& indices) {
  const int64_t B = x.shape[0], L = x.shape[1], k = values.shape[1];
  int32_t* from = indices.data<int32_t>();
  dispatch_float(x.dtype, [&]<class T>() {
    const T* px = x.data<T>();
    T* to = values.data<T>();
    parallel_for(B, row_grain(4 * L), [&](int64_t first, int64_t last) {
      std::vector<Ranked<T>> row(static_cast<size_t>(L));
      for (int64_t b = first; b < last; b++) {
        for (int64_t i = 0; i < L; i++) row[size_t(i)] = ranked<T>(px[b * L + i], i);
        std::partial_sort(row.begin(), row.begin() + k, row.end());
        for (int64_t i = 0; i < k; i++) {
          from[b * k + i] = position_of(row[size_t(i)]);
          to[b * k + i] = px[b * L + position_of(row[size_t(i)])];
        }
      }
    });
  });
}

}  // namespace galago::cpu
