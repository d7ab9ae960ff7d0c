/*
Batch norm of the columns of a matrix: z = (x - mean) rstd, out = weight z + bias. The gradient flows through the batch's mean and variance:
dx = weight rstd (dout - (sum dout + z sum(dout z)) / B). One pass for both sums (column_sums.cuh), one for dx. float32 only.
*/
#include "batch_statistics.cuh"

namespace galago::cuda {

namespace {

struct Normalized {
  const float *mean, *rstd, *weight, *bias;  // weight and bias may be null
  __device__ float operator()(const float (&x)[1], int64_t c) const {
    const float z = (x[0] - mean[c]) * rstd[c];
    return z * (weight ? weight[c] : 1.0f) + (bias ? bias[c] : 0.0f);
  }
};

// sums of dout and of dout z
struct GradientTerm {
  const float *x, *dout, *mean, *rstd;
  int64_t columns;
  __device__ void operator()(int64_t row, int64_t c, float (&sums)[2]) const {
    const float d = dout[row * columns + c];
    sums[0] += d;
    sums[1] += d * ((x[row * columns + c] - mean[c]) * rstd[c]);
  }
};

struct NormalizedBackward {  // (x, dout)
  const float *mean, *rstd, *weight, *sum_d, *sum_dz;
  float share;  // 1 / B, or 0 when the statistics are constants
  __device__ float operator()(const float (&values)[2], int64_t c) const {
    const float z = (values[0] - mean[c]) * rstd[c];
    return (weight ? weight[c] : 1.0f) * rstd[c] * (values[1] - (sum_d[c] + z * sum_dz[c]) * share);
  }
};

}  // namespace

// ---- launchers

void batch_norm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& running_mean, Tensor& running_var, Tensor& out,
                        Tensor& mean, Tensor& rstd, bool training, double momentum, double eps) {
  batch_statistics(x, running_mean, running_var, mean, rstd, training, momentum, eps);
  map_columns(Normalized{mean.data<float>(), rstd.data<float>(), weight.data<float>(), bias.data<float>()},
              MapInputs<1, float>{x.data<float>()}, out.data<float>(), x.rows(), x.columns());
}

void batch_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                         Tensor& dweight, Tensor& dbias, bool training) {
  CHECK(x.dtype == DType::float32, "batch_norm: expected float32");
  const int64_t B = x.rows(), D = x.columns();
  const float *px = x.data<float>(), *pd = dout.data<float>(), *pm = mean.data<float>(), *pi = rstd.data<float>();
  const Scratch<float> sums(2 * D);
  float* sum_d = dbias ? dbias.data<float>() : sums.data();
  float* sum_dz = dweight ? dweight.data<float>() : sums.data() + D;
  sum_columns(GradientTerm{px, pd, pm, pi, D}, 1, B, D, ColumnOutputs<2, float>{{sum_d, sum_dz}});
  if (dx)
    map_columns(NormalizedBackward{pm, pi, weight.data<float>(), sum_d, sum_dz, training && B > 0 ? 1.0f / float(B) : 0.0f},
                MapInputs<2, float>{px, pd}, dx.data<float>(), B, D);
}

}  // namespace galago::cuda
