// Dice (Zhou et al., "Deep Interest Network", 2018): a gate at the batch's mean, with a slope alpha below it.
#include "batch_statistics.h"
#include "vector_math.h"

namespace galago::cpu {

void dice_forward(const Tensor& x, const Tensor& alpha, Tensor& running_mean, Tensor& running_var, Tensor& out, Tensor& mean, Tensor& rstd,
                  bool training, double momentum, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t B = x.rows(), D = x.columns();
    const T *px = x.data<T>(), *pa = alpha.data<T>();
    T *po = out.data<T>(), *pm = mean.data<T>(), *pi = rstd.data<T>();
    batch_statistics(px, B, D, running_mean.data<T>(), running_var.data<T>(), pm, pi, training, momentum, eps);
    for_rows<T>(B, D, [=](int64_t r) GALAGO_INLINE_BODY {
      const T* row = px + r * D;
      for (int64_t c = 0; c < D; c++) {
        const T p = fast_sigmoid((row[c] - pm[c]) * pi[c]);
        po[r * D + c] = row[c] * (p + pa[c] * (1 - p));
      }
    });
  });
}

void dice_backward(const Tensor& x, const Tensor& alpha, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                   Tensor& dalpha, bool training) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t B = x.rows(), D = x.columns();
    const T *px = x.data<T>(), *pa = alpha.data<T>(), *pm = mean.data<T>(), *pi = rstd.data<T>(), *pd = dout.data<T>();
    T *pdx = dx.data<T>(), *pda = dalpha.data<T>();
    // z = (x - mean) rstd, p = sigmoid(z), dz = dout x (1 - alpha) p (1 - p). Sums over the batch of dz, of dz z, and dalpha.
    std::vector<T> sums(size_t(3 * D));
    sum_over_rows(B, 3 * D, sums.data(), [=](int64_t r, T* partial) GALAGO_INLINE_BODY {
      const T *row = px + r * D, *d_row = pd + r * D;
      for (int64_t c = 0; c < D; c++) {
        const T z = (row[c] - pm[c]) * pi[c], p = fast_sigmoid(z);
        const T dz = d_row[c] * row[c] * (1 - pa[c]) * p * (1 - p);
        partial[c] += dz;
        partial[D + c] += dz * z;
        partial[2 * D + c] += d_row[c] * row[c] * (1 - p);
      }
    });
    const T *sum_dz = sums.data(), *sum_dzz = sum_dz + D;
    if (pdx)
      for_rows<T>(B, D, [=](int64_t r) GALAGO_INLINE_BODY {
        const T *row = px + r * D, *d_row = pd + r * D;
        for (int64_t c = 0; c < D; c++) {
          const T z = (row[c] - pm[c]) * pi[c], p = fast_sigmoid(z);
          const T dz = d_row[c] * row[c] * (1 - pa[c]) * p * (1 - p);
          const T through = training ? (sum_dz[c] + z * sum_dzz[c]) / T(B) : T(0);
          pdx[r * D + c] = d_row[c] * (p + pa[c] * (1 - p)) + pi[c] * (dz - through);
        }
      });
    if (pda) std::copy(sums.data() + 2 * D, sums.data() + 3 * D, pda);
  });
}

}  // namespace galago::cpu
