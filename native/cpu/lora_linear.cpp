// A frozen dense layer with a low-rank update: out = x W^T + bias + (scale z A^T) B^T.
// The rank steps run as products of their own on top of the finished base: two thin passes over x and out.
#include "dispatch.h"
#include "matmul.h"

namespace galago::cpu {

void lora_linear_forward(const Tensor& x, const Tensor& z, const Tensor& weight, const Tensor& bias, const Tensor& a, const Tensor& b,
                         Tensor& hidden, Tensor& out, double scale) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t M = x.rows(), N = weight.shape[0], K = weight.shape[1], rank = a.shape[0];
    const Epilogue<T> epilogue{bias.data<T>()};
    matmul<T>(Transpose::no, Transpose::yes, M, N, K, T(1), x.data<T>(), K, weight.data<T>(), K, T(0), out.data<T>(), N,
              bias ? &epilogue : nullptr);
    matmul<T>(Transpose::no, Transpose::yes, M, rank, K, T(scale), z.data<T>(), K, a.data<T>(), K, T(0), hidden.data<T>(), rank);
    matmul<T>(Transpose::no, Transpose::yes, M, N, rank, T(1), hidden.data<T>(), rank, b.data<T>(), rank, T(1), out.data<T>(), N);
  });
}

void lora_linear_backward(const Tensor& z, const Tensor& weight, const Tensor& a, const Tensor& b, const Tensor& hidden, const Tensor& dout,
                          Tensor& dhidden, Tensor& dx, Tensor& dz, Tensor& da, Tensor& db, bool shared, double scale) {
  dispatch_float(z.dtype, [&]<class T>() {
    const int64_t M = z.rows(), N = weight.shape[0], K = weight.shape[1], rank = a.shape[0];
    const T* gradient = dout.data<T>();
    T* dh = dhidden.data<T>();
    matmul<T>(Transpose::no, Transpose::no, M, rank, N, T(scale), gradient, N, b.data<T>(), rank, T(0), dh, rank);
    if (db) matmul<T>(Transpose::yes, Transpose::no, N, rank, M, T(1), gradient, N, hidden.data<T>(), rank, T(0), db.data<T>(), rank);
    if (da) matmul<T>(Transpose::yes, Transpose::no, rank, K, M, T(1), dh, rank, z.data<T>(), K, T(0), da.data<T>(), K);
    if (dx) matmul<T>(Transpose::no, Transpose::no, M, K, N, T(1), gradient, N, weight.data<T>(), K, T(0), dx.data<T>(), K);
    if (dx && shared) matmul<T>(Transpose::no, Transpose::no, M, K, rank, T(1), dh, rank, a.data<T>(), K, T(1), dx.data<T>(), K);
    if (dz) matmul<T>(Transpose::no, Transpose::no, M, K, rank, T(1), dh, rank, a.data<T>(), K, T(0), dz.data<T>(), K);
  });
}

}  // namespace galago::cpu
