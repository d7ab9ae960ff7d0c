/*
Dense layers: out = f(x W^T + bias), all in the product's epilogue (gemm.cuh).
Backward makes dz = dout f' in one pass that also sums its columns for dbias (float32, before dz is rounded), then
dx = dz W and dweight = dz^T x, the long sum over rows in chunks.
*/
#include "column_sums.cuh"
#include "gemm.cuh"

namespace galago::cuda {

// Makes dz on its way into the column sums: `in` is the preactivation for gelu and silu, else out.
template <Activation KIND, class T, int WIDTH>
struct SlopeSource {
  const T *in, *dout;
  T* dz;
  int64_t columns;

  __device__ void load(int64_t row, int64_t column, float (&v)[WIDTH]) const {
    const int64_t at = row * columns + column;
    if constexpr (WIDTH == 1) {
      v[0] = to_float(dout[at]) * slope<KIND>(to_float(in[at]), to_float(in[at]));
      dz[at] = from_float<T>(v[0]);
    } else {
      const Pack<T> x = load_pack(in + at), d = load_pack(dout + at);
      Pack<T> z;
#pragma unroll
      for (int k = 0; k < WIDTH; k++) {
        v[k] = to_float(d.v[k]) * slope<KIND>(to_float(x.v[k]), to_float(x.v[k]));
        z.v[k] = from_float<T>(v[k]);
      }
      store_pack(dz + at, z);
    }
  }
};

// dz alone
template <int WIDTH, class Source>
__global__ void slope_kernel(Source source, int64_t pieces) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < pieces; i += stride) {
    float v[WIDTH];
    source.load(0, i * WIDTH, v);
  }
}

// ---- launchers

template <class T, int WIDTH>
static void make_dz(Activation kind, int64_t rows, int64_t columns, const T* in, const T* dout, T* dz, T* dbias) {
  dispatch_activation(kind, [&]<Activation KIND>() {
    if constexpr (KIND != Activation::none) {
      const SlopeSource<KIND, T, WIDTH> source{in, dout, dz, columns};
      const int64_t pieces = rows * columns / WIDTH;
      if (dbias)
        column_sums_of<WIDTH>(rows, columns, source, dbias);
      else
        launch(slope_kernel<WIDTH, SlopeSource<KIND, T, WIDTH>>, grid_of((pieces + 255) / 256), 256, 0, source, pieces);
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
      if (dbias) column_sums(M, N, gradient, dbias.data<T>());
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
