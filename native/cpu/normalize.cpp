// Rows of length 1.
#include <algorithm>
#include <cmath>

#include "row_loops.h"

namespace galago::cpu {

void normalize_forward(const Tensor& x, Tensor& out, Tensor& norm, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T* px = x.data<T>();
    T *po = out.data<T>(), *pn = norm.data<T>();
    const int64_t D = x.columns();
    for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
      const T* row = px + r * D;
      const T length = std::sqrt(lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return row[d] * row[d]; }));
      const T inverse = 1 / std::max(length, T(eps));
      for (int64_t d = 0; d < D; d++) po[r * D + d] = row[d] * inverse;
      pn[r] = length;
    });
  });
}

void normalize_backward(const Tensor& out, const Tensor& norm, const Tensor& dout, Tensor& dx, double eps) {
  dispatch_float(out.dtype, [&]<class T>() {
    const T *po = out.data<T>(), *pn = norm.data<T>(), *pd = dout.data<T>();
    T* pdx = dx.data<T>();
    const int64_t D = out.columns();
    for_rows<T>(out.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
      const T *y = po + r * D, *d_row = pd + r * D;
      const T inverse = 1 / std::max(pn[r], T(eps));
      // Below eps the divisor is a constant
      const T along = pn[r] > T(eps) ? lane_sum<T, 16>(D, [=](int64_t d) GALAGO_INLINE_BODY { return y[d] * d_row[d]; }) : T(0);
      for (int64_t d = 0; d < D; d++) pdx[r * D + d] = inverse * (d_row[d] - y[d] * along);
    });
  });
}

}  // namespace galago::cpu
