/*
matmul, and the one place where the products of gemm.cuh between matrices in memory are compiled: four layouts, two tiles, float32 and
bfloat16. Registers (sm_80), no spills: see the end of the head comment of gemm.cuh.
*/
#include "gemm.cuh"

namespace galago::cuda {

template <class T>
void gemm(const Product<T>& p) {
  if (p.M == 0 || p.N == 0 || p.batch == 0) return;
  const Epilogue<T> epilogue{
      p.out,        p.bias,       p.preactivation,
      p.sums,       p.N,          p.scale,
      p.activation, p.accumulate, whole_quads<T>(p.N, p.out, p.bias, p.preactivation) && whole_quads<float>(p.N, p.sums)};
  // (rows, columns) as they lie in memory
  const auto left = [&](const T* data, int64_t K) { return p.transpose_a ? Rows<T>(data, K, p.M) : Rows<T>(data, p.M, K); };
  const auto right = [&](const T* data, int64_t K) { return p.transpose_b ? Rows<T>(data, p.N, K) : Rows<T>(data, K, p.N); };
  const auto run = [&]<bool A_K, bool B_K>() {
    multiply<A_K, B_K>(left(p.a, p.K), right(p.b, p.K), left(p.a_rank, p.rank), right(p.b_rank, p.rank), p.M, p.N, p.K, p.rank, p.batch,
                       epilogue);
  };
  if (p.transpose_a && p.transpose_b) return run.template operator()<false, true>();
  if (p.transpose_a) return run.template operator()<false, false>();
  if (p.transpose_b) return run.template operator()<true, true>();
  run.template operator()<true, false>();
}

template void gemm(const Product<float>&);
template void gemm(const Product<bfloat16>&);

// ---- launchers

void matmul_forward(const Tensor& a, const Tensor& b, Tensor& out, bool transpose_a, bool transpose_b) {
  dispatch_float(a.dtype, [&]<class T>() {
    Product<T> product{.M = out.shape[out.rank - 2],
                       .N = out.shape[out.rank - 1],
                       .K = a.shape[a.rank - (transpose_a ? 2 : 1)],
                       .a = a.data<T>(),
                       .b = b.data<T>(),
                       .out = out.data<T>(),
                       .transpose_a = transpose_a,
                       .transpose_b = transpose_b};
    for (int i = 0; i + 2 < out.rank; i++) product.batch *= out.shape[i];
    gemm(product);
  });
}

}  // namespace galago::cuda
