/*
A frozen dense layer with a low-rank update: hidden = scale z A^T, out = x W^T + bias + hidden B^T.
Two launches: a thin product makes hidden, then the product of the layer goes on with the steps of the rank in the same accumulators, so
out is written once. Backward mirrors it: dhidden = scale dout B, then dx = dout W + dhidden A in one product. `scale` enters in float32.
With b = 0 the rank steps add zeros to sums made in the same order as linear's: the same bits.
*/
#include "gemm.cuh"

namespace galago::cuda {

// ---- launchers

void lora_linear_forward(const Tensor& x, const Tensor& z, const Tensor& weight, const Tensor& bias, const Tensor& a, const Tensor& b,
                         Tensor& hidden, Tensor& out, double scale) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t M = x.rows(), N = weight.shape[0], K = weight.shape[1], rank = a.shape[0];
    gemm(Product<T>{.M = M,
                    .N = rank,
                    .K = K,
                    .a = z.data<T>(),
                    .b = a.data<T>(),
                    .out = hidden.data<T>(),
                    .transpose_b = true,
                    .scale = float(scale)});
    gemm(Product<T>{.M = M,
                    .N = N,
                    .K = K,
                    .a = x.data<T>(),
                    .b = weight.data<T>(),
                    .out = out.data<T>(),
                    .transpose_b = true,
                    .bias = bias.data<T>(),
                    .rank = rank,
                    .a_rank = hidden.data<T>(),
                    .b_rank = b.data<T>()});
  });
}

void lora_linear_backward(const Tensor& z, const Tensor& weight, const Tensor& a, const Tensor& b, const Tensor& hidden, const Tensor& dout,
                          Tensor& dhidden, Tensor& dx, Tensor& dz, Tensor& da, Tensor& db, bool shared, double scale) {
  dispatch_float(z.dtype, [&]<class T>() {
    const int64_t M = z.rows(), N = weight.shape[0], K = weight.shape[1], rank = a.shape[0];
    const T *gradient = dout.data<T>(), *pa = a.data<T>();
    T* dh = dhidden.data<T>();
    gemm(Product<T>{.M = M, .N = rank, .K = N, .a = gradient, .b = b.data<T>(), .out = dh, .scale = float(scale)});
    if (db) gemm(Product<T>{.M = N, .N = rank, .K = M, .a = gradient, .b = hidden.data<T>(), .out = db.data<T>(), .transpose_a = true});
    if (da) gemm(Product<T>{.M = rank, .N = K, .K = M, .a = dh, .b = z.data<T>(), .out = da.data<T>(), .transpose_a = true});
    if (dx) {
      Product<T> product{.M = M, .N = K, .K = N, .a = gradient, .b = weight.data<T>(), .out = dx.data<T>()};
      if (shared) product.rank = rank, product.a_rank = dh, product.b_rank = pa;
      gemm(product);
    }
    if (dz) gemm(Product<T>{.M = M, .N = K, .K = rank, .a = dh, .b = pa, .out = dz.data<T>()});
  });
}

}  // namespace galago::cuda
