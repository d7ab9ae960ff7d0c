// transpose: dimension d of out is dimension axes[d] of x. Runs of the last dimension are copied whole where it stays last.
#include <cstring>

#include "dispatch.h"

namespace galago::cpu {

template <class T>
static void permute(const Tensor& x, Tensor& out, const std::vector<int64_t>& axes) {
  int64_t stride_of_x[max_rank], stride[max_rank];
  int64_t step = 1;
  for (int d = x.rank - 1; d >= 0; d--) {
    stride_of_x[d] = step;
    step *= x.shape[d];
  }
  for (int d = 0; d < out.rank; d++) stride[d] = stride_of_x[axes[size_t(d)]];
  const int64_t n = out.columns(), rows = out.size() ? out.rows() : 0, inner = stride[out.rank - 1];
  const T* px = x.data<T>();
  T* po = out.data<T>();
  parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      int64_t rest = r, offset = 0;
      for (int d = out.rank - 2; d >= 0; d--) {
        offset += rest % out.shape[d] * stride[d];
        rest /= out.shape[d];
      }
      const T* from = px + offset;
      T* to = po + r * n;
      if (inner == 1) {
        std::memcpy(to, from, size_t(n) * sizeof(T));
      } else {
        for (int64_t i = 0; i < n; i++) to[i] = from[i * inner];
      }
    }
  });
}

void transpose(const Tensor& x, Tensor& out, const std::vector<int64_t>& axes) {
  CHECK(int(axes.size()) == x.rank && x.rank > 0, "transpose: one axis per dimension");
  dispatch_float(x.dtype, [&]<class T>() { permute<T>(x, out, axes); });
}

}  // namespace galago::cpu
