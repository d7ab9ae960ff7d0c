/*
Layer norm of rows, with an optional residual that is added first: s = x + residual (stored, because the next layer and backward read it),
out = (s - mean) rstd weight + bias. Kernels and budgets: row_norm.cuh.
*/
#include "row_norm.cuh"

namespace galago::cuda {

// ---- launchers

void layer_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, Tensor& sum, Tensor& out,
                        Tensor& mean, Tensor& rstd, double eps) {
  dispatch_float(x.dtype, [&]<class T>() {
    norm_forward<true>(NormForward<T>{x.data<T>(), residual.data<T>(), weight.data<T>(), bias.data<T>(), sum.data<T>(), out.data<T>(),
                                      mean.data<float>(), rstd.data<float>(), x.rows(), x.columns(), float(eps)});
  });
}

void layer_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                         Tensor& dweight, Tensor& dbias) {
  dispatch_float(x.dtype, [&]<class T>() {
    norm_backward<true>(NormBackward<T>{x.data<T>(), weight.data<T>(), mean.data<float>(), rstd.data<float>(), dout.data<T>(), dx.data<T>(),
                                        nullptr, x.rows(), x.columns(), 0, 0},
                        dweight.data<T>(), dbias.data<T>());
  });
}

}  // namespace galago::cuda
