// Rectifier with a slope per column below zero.
#include "row_loops.h"

namespace galago::cpu {

void prelu_forward(const Tensor& x, const Tensor& alpha, Tensor& out) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *pa = alpha.data<T>();
    T* po = out.data<T>();
    const int64_t D = x.columns();
    for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
      for (int64_t c = 0; c < D; c++) po[r * D + c] = px[r * D + c] * (px[r * D + c] > 0 ? T(1) : pa[c]);
    });
  });
}

void prelu_backward(const Tensor& x, const Tensor& alpha, const Tensor& dout, Tensor& dx, Tensor& dalpha) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *pa = alpha.data<T>(), *pd = dout.data<T>();
    const int64_t D = x.columns();
    if (T* pdx = dx.data<T>())
      for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY {
        for (int64_t c = 0; c < D; c++) pdx[r * D + c] = pd[r * D + c] * (px[r * D + c] > 0 ? T(1) : pa[c]);
      });
    if (T* pda = dalpha.data<T>())
      sum_over_rows(x.rows(), D, pda, [=](int64_t r, T* sums) GALAGO_INLINE_BODY {
        for (int64_t c = 0; c < D; c++) sums[c] += px[r * D + c] > 0 ? T(0) : pd[r * D + c] * px[r * D + c];
      });
  });
}

}  // namespace galago::cpu
