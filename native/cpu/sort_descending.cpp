// Each row sorted, largest first; order[b][i] is where entry i came from.
#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "ranking.h"

namespace galago::cpu {

void sort_descending_forward(const Tensor& x, const Tensor& lengths, Tensor& out, Tensor& order) {
  const int64_t B = x.shape[0], L = x.shape[1];
  const int32_t* length = lengths.data<int32_t>();
  int32_t* from = order.data<int32_t>();
  dispatch_float(x.dtype, [&]<class T>() {
    const T* px = x.data<T>();
    T* po = out.data<T>();
    parallel_for(B, row_grain(8 * L), [&](int64_t first, int64_t last) {
      std::vector<Ranked<T>> row(static_cast<size_t>(L));
      for (int64_t b = first; b < last; b++) {
        if (length && (length[b] < 0 || length[b] > L)) index_error("sortDescending", "lengths", b, length[b], L + 1);
        const int64_t n = length ? std::clamp<int64_t>(length[b], 0, L) : L;
        for (int64_t i = 0; i < n; i++) row[size_t(i)] = ranked<T>(px[b * L + i], i);
        std::sort(row.begin(), row.begin() + n);
        for (int64_t i = 0; i < L; i++) {
          from[b * L + i] = i < n ? position_of(row[size_t(i)]) : -1;
          po[b * L + i] = i < n ? px[b * L + position_of(row[size_t(i)])] : T(0);
        }
      }
    });
  });
}

void sort_descending_backward(const Tensor& dout, const Tensor& order, Tensor& dx) {
  const int64_t B = dx.shape[0], L = dx.shape[1];
  const int32_t* from = order.data<int32_t>();
  dispatch_float(dx.dtype, [&]<class T>() {
    const T* g = dout.data<T>();
    T* to = dx.data<T>();
    parallel_for(B, row_grain(L), [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; b++) {
        std::fill(to + b * L, to + (b + 1) * L, T(0));
        for (int64_t i = 0; i < L && from[b * L + i] >= 0; i++) to[b * L + from[b * L + i]] = g[b * L + i];
      }
    });
  });
}

}  // namespace galago::cpu
