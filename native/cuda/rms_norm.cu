/*
Root-mean-square norm of rows: out = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps). Kernels and budgets: row_norm.cuh.
*/
#include "row_norm.cuh"

namespace galago::cuda {

// ---- launchers

void rms_norm_forward(const Tensor& x, const Tensor& weight, Tensor& out, Tensor& rstd, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    norm_forward<false>(NormForward<T>{x.data<T>(), nullptr, weight.data<T>(), nullptr, nullptr, out.data<T>(), nullptr, rstd.data<float>(),
                                       x.rows(), x.columns(), float(eps)});
  });
}

void rms_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dout, Tensor& dx, Tensor& dweight) {
  dispatch_float(x.dtype, [&]<class T>() {
    norm_backward<false>(NormBackward<T>{x.data<T>(), weight.data<T>(), nullptr, rstd.data<float>(), dout.data<T>(), dx.data<T>(), nullptr,
                                         x.rows(), x.columns(), 0, 0},
                         dweight.data<T>(), static_cast<T*>(nullptr));
  });
}

}  // namespace galago::cuda
