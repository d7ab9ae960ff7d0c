/*
Dense layers: out = f(x W^T + bias), all in the product's epilogue (gemm.cuh).
Backward makes dz = dout f' in one pass that also sums its columns for dbias (float32, before dz is rounded), then
dx = dz W and dweight = dz^T x, the long sum over rows in chunks.
*/
#include "column_sums.cuh"
#include "gemm.cuh"
#include "row_lanes.cuh"

namespace galago::cuda {

// Makes dz on its way into the column sums, WIDTH values at a time: `in` is the preactivation for gelu and silu, else out.
template <Activation KIND, class T, int WIDTH>
struct SlopeTerm {
  const T *in, *dout;
  T* dz;
  int64_t columns;  // of WIDTH values

  __device__ void operator()(int64_t row, int64_t column, float (&sums)[WIDTH]) const {
    const int64_t at = (row * columns + column) * WIDTH;
    float x[WIDTH], d[WIDTH];
    load_columns(in + at, x);
    load_columns(dout + at, d);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
      d[k] *= slope<KIND>(x[k], x[k]);
      sums[k] += d[k];
    }
    store_columns(dz + at, d);
  }
};

// dz alone
template <int WIDTH, class Term>
__global__ void slope_kernel(Term term, int64_t pieces) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < pieces; i += stride) {
    float sums[WIDTH] = {};
    term(0, i, sums);
  }
}

// ---- launchers

template <class T, int WIDTH>
static void make_dz(Activation kind, int64_t rows, int64_t columns, const T* in, const T* dout, T* dz, T* dbias) {
  dispatch_activation(kind, [&]<Activation KIND>() {
    if constexpr (KIND != Activation::none) {
      const SlopeTerm<KIND, T, WIDTH> term{in, dout, dz, columns / WIDTH};
      const int64_t pieces = rows * term.columns;
      if (dbias)
        sum_columns(term, 1, rows, term.columns, in_packs<WIDTH>(dbias));
      else
        launch(slope_kernel<WIDTH, SlopeTerm<KIND, T, WIDTH>>, grid_of((pieces + 255) / 256), 256, 0, term, pieces);
    }
  });
}

void linear_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& out, Tensor& preactivation, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    gemm(Product<T>{.M = x.rows(),
                    .N = weight.shape[0],
                    .K = weight.shape[1],
                    .a = x.data<T>(),
                    .b = weight.data<T>(),
                    .out = out.data<T>(),
                    .transpose_b = true,
                    .bias = bias.data<T>(),
                    .preactivation = preactivation.data<T>(),
                    .activation = kind});
  });
}

void linear_backward(const Tensor& x, const Tensor& weight, const Tensor& preactivation, const Tensor& out, const Tensor& dout, Tensor& dz,
                     Tensor& dx, Tensor& dweight, Tensor& dbias, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t M = x.rows(), N = weight.shape[0], K = weight.shape[1];
    const T* gradient = dout.data<T>();
    if (kind == Activation::none) {
      if (dbias) column_sums(gradient, 1, M, N, dbias.data<T>());
    } else {
      const T* in = kind == Activation::gelu || kind == Activation::silu ? preactivation.data<T>() : out.data<T>();
      if (packed<T>(N, in, gradient, dz.data<T>()))
        make_dz<T, pack_width<T>>(kind, M, N, in, gradient, dz.data<T>(), dbias.data<T>());
      else
        make_dz<T, 1>(kind, M, N, in, gradient, dz.data<T>(), dbias.data<T>());
      gradient = dz.data<T>();
    }
    if (dx) gemm(Product<T>{.M = M, .N = K, .K = N, .a = gradient, .b = weight.data<T>(), .out = dx.data<T>()});
    if (dweight) gemm(Product<T>{.M = N, .N = K, .K = M, .a = gradient, .b = x.data<T>(), .out = dweight.data<T>(), .transpose_a = true});
  });
}

}  // namespace galago::cuda
