// Batch norm of the columns of a matrix; the gradient flows through the batch's mean and variance.
#include "batch_statistics.h"

namespace galago::cpu {

void batch_norm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& running_mean, Tensor& running_var, Tensor& out,
                        Tensor& mean, Tensor& rstd, bool training, double momentum, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t B = x.rows(), D = x.columns();
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pb = bias.data<T>();
    T *po = out.data<T>(), *pm = mean.data<T>(), *pi = rstd.data<T>();
    batch_statistics(px, B, D, running_mean.data<T>(), running_var.data<T>(), pm, pi, training, momentum, eps);
    for_rows<T>(B, D, [=](int64_t r) GALAGO_INLINE_BODY {
      T* row = po + r * D;
      for (int64_t c = 0; c < D; c++) row[c] = (px[r * D + c] - pm[c]) * pi[c];
      if (pw)
        for (int64_t c = 0; c < D; c++) row[c] *= pw[c];
      if (pb)
        for (int64_t c = 0; c < D; c++) row[c] += pb[c];
    });
  });
}

void batch_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                         Tensor& dweight, Tensor& dbias, bool training) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t B = x.rows(), D = x.columns();
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pm = mean.data<T>(), *pi = rstd.data<T>(), *pd = dout.data<T>();
    T *pdx = dx.data<T>(), *pdw = dweight.data<T>(), *pdb = dbias.data<T>();
    std::vector<T> sums(size_t(2 * D));  // of dout, and of dout times the normalized x
    sum_over_rows(B, 2 * D, sums.data(), [=](int64_t r, T* partial) GALAGO_INLINE_BODY {
      const T *row = px + r * D, *d_row = pd + r * D;
      for (int64_t c = 0; c < D; c++) {
        partial[c] += d_row[c];
        partial[D + c] += d_row[c] * ((row[c] - pm[c]) * pi[c]);
      }
    });
    const T *sum_d = sums.data(), *sum_dx = sum_d + D;
    if (pdx)
      for_rows<T>(B, D, [=](int64_t r) GALAGO_INLINE_BODY {
        const T *row = px + r * D, *d_row = pd + r * D;
        for (int64_t c = 0; c < D; c++) {
          const T through = training ? (sum_d[c] + (row[c] - pm[c]) * pi[c] * sum_dx[c]) / T(B) : T(0);
          pdx[r * D + c] = (pw ? pw[c] : T(1)) * pi[c] * (d_row[c] - through);
        }
      });
    if (pdb) std::copy(sum_d, sum_d + D, pdb);
    if (pdw) std::copy(sum_dx, sum_dx + D, pdw);
  });
}

}  // namespace galago::cpu
