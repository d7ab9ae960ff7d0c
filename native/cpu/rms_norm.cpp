// Root-mean-square norm of rows.
#include <cmath>

#include "row_loops.h"

namespace galago::cpu {

void rms_norm_forward(const Tensor& x, const Tensor& weight, Tensor& out, Tensor& rstd, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *pw = weight.data<T>();
    T *po = out.data<T>(), *pi = rstd.data<T>();
    const int64_t D = x.columns();
    for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
      const T* row = px + r * D;
      const T inverse = 1 / std::sqrt(lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return row[d] * row[d]; }) / T(D) + T(eps));
      for (int64_t d = 0; d < D; d++) po[r * D + d] = row[d] * inverse * pw[d];
      pi[r] = inverse;
    });
  });
}

void rms_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dout, Tensor& dx, Tensor& dweight) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pi = rstd.data<T>(), *pd = dout.data<T>();
    const int64_t D = x.columns();
    if (T* pdx = dx.data<T>())
      for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
        const T *row = px + r * D, *d_row = pd + r * D;
        const T inverse = pi[r];
        const T mean_gx = lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return d_row[d] * pw[d] * (row[d] * inverse); }) / T(D);
        for (int64_t d = 0; d < D; d++) pdx[r * D + d] = inverse * (d_row[d] * pw[d] - row[d] * inverse * mean_gx);
      });
    if (T* pdw = dweight.data<T>())
      sum_over_rows(x.rows(), D, pdw, [=](int64_t r, T* sums) GALAGO_INLINE_BODY {
        const T inverse = pi[r];
        for (int64_t d = 0; d < D; d++) sums[d] += pd[r * D + d] * (px[r * D + d] * inverse);
      });
  });
}

}  // namespace galago::cpu
