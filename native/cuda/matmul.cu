/*
matmul, and the one place where the products of gemm.cuh between matrices in memory are compiled: four layouts, two tiles, float32 and
bfloat16. linear and lora_linear call gemm() from here.
*/
#include "gemm.cuh"

namespace galago::cuda {

// (rows, columns) -> (rows, padded), zeros behind.
template <class T>
__global__ void pad_columns_kernel(const T* from, T* to, int64_t rows, int64_t columns, int64_t padded) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * padded; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / padded, column = i % padded;
    to[i] = column < columns ? from[row * columns + column] : from_float<T>(0.0f);
  }
}

template <class T>
static void pad_columns(const T* from, T* to, int64_t rows, int64_t columns, int64_t padded) {
  launch(pad_columns_kernel<T>, grid_of((rows * padded + 255) / 256), 256, 0, from, to, rows, columns, padded);
}

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
  // The tensor cores want a contiguous rank in whole 16-byte pieces; where it is not contiguous, rows that are missing read as zeros.
  const int64_t rank = sizeof(T) == 2 ? (p.rank + 7) / 8 * 8 : p.rank;
  const bool pad_a = rank != p.rank && !p.transpose_a, pad_b = rank != p.rank && p.transpose_b;
  const Scratch<T> padded_a(pad_a ? p.M * rank : 0), padded_b(pad_b ? p.N * rank : 0);
  if (pad_a) pad_columns(p.a_rank, padded_a.data(), p.M, p.rank, rank);
  if (pad_b) pad_columns(p.b_rank, padded_b.data(), p.N, p.rank, rank);
  const Rows<T> a_rank = pad_a ? left(padded_a.data(), rank) : left(p.a_rank, p.rank);
  const Rows<T> b_rank = pad_b ? right(padded_b.data(), rank) : right(p.b_rank, p.rank);
  const auto run = [&]<bool A_K, bool B_K>() {
    multiply<A_K, B_K>(left(p.a, p.K), right(p.b, p.K), a_rank, b_rank, p.M, p.N, p.K, rank, p.batch, epilogue);
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
