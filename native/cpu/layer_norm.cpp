// Layer norm of rows: mean first, then squared deviations, because E[x^2] - E[x]^2 cancels.
#include <cmath>

#include "row_loops.h"

namespace galago::cpu {

void layer_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, Tensor& sum, Tensor& out,
                        Tensor& mean, Tensor& rstd, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *pr = residual.data<T>(), *pw = weight.data<T>(), *pb = bias.data<T>();
    T *ps = sum.data<T>(), *po = out.data<T>(), *pm = mean.data<T>(), *pi = rstd.data<T>();
    const int64_t D = x.columns();
    for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
      const T* row = px + r * D;
      if (pr) {
        T* added = ps + r * D;
        for (int64_t d = 0; d < D; d++) added[d] = row[d] + pr[r * D + d];
        row = added;
      }
      const T m = lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return row[d]; }) / T(D);
      const T variance = lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return (row[d] - m) * (row[d] - m); }) / T(D);
      const T inverse = 1 / std::sqrt(variance + T(eps));
      for (int64_t d = 0; d < D; d++) po[r * D + d] = (row[d] - m) * inverse * pw[d] + pb[d];
      pm[r] = m;
      pi[r] = inverse;
    });
  });
}

void layer_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                         Tensor& dweight, Tensor& dbias) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pm = mean.data<T>(), *pi = rstd.data<T>(), *pd = dout.data<T>();
    const int64_t D = x.columns();
    if (T* pdx = dx.data<T>())
      for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
        const T *row = px + r * D, *d_row = pd + r * D;
        const T m = pm[r], inverse = pi[r];
        const T mean_g = lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return d_row[d] * pw[d]; }) / T(D);
        const T mean_gx =
            lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return d_row[d] * pw[d] * ((row[d] - m) * inverse); }) / T(D);
        for (int64_t d = 0; d < D; d++) pdx[r * D + d] = inverse * (d_row[d] * pw[d] - mean_g - (row[d] - m) * inverse * mean_gx);
      });
    if (T* pdw = dweight.data<T>())
      sum_over_rows(x.rows(), D, pdw, [=](int64_t r, T* sums) GALAGO_INLINE_BODY {
        const T m = pm[r], inverse = pi[r];
        for (int64_t d = 0; d < D; d++) sums[d] += pd[r * D + d] * ((px[r * D + d] - m) * inverse);
      });
    if (T* pdb = dbias.data<T>())
      sum_over_rows(x.rows(), D, pdb, [=](int64_t r, T* sums) GALAGO_INLINE_BODY {
        for (int64_t d = 0; d < D; d++) sums[d] += pd[r * D + d];
      });
  });
}

}  // namespace galago::cpu
