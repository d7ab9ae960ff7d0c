// Mean and deviation of each column over the batch, and the matrices' elementwise parts: shared by batch_norm and dice. float32 only.
#pragma once
#include "column_sums.cuh"
#include "map.cuh"

namespace galago::cuda {

struct SquaredDeviation {
  const float *x, *mean;
  int64_t columns;
  __device__ void operator()(int64_t row, int64_t column, float (&sums)[1]) const {
    const float d = x[row * columns + column] - mean[column];
    sums[0] += d * d;
  }
};

// `squares`: the sums of squared deviations of this batch, or null: the running values are used as they are.
static __global__ void batch_statistics_kernel(const float* squares, int64_t B, int64_t D, float* running_mean, float* running_var,
                                               float* mean, float* rstd, float momentum, float eps) {
  for (int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; c < D; c += int64_t(gridDim.x) * blockDim.x) {
    if (squares) {
      rstd[c] = 1.0f / sqrtf(squares[c] / float(B) + eps);
      if (!isfinite(squares[c])) continue;  // the optimizer skips such a step, which is to leave no trace
      running_mean[c] += momentum * (mean[c] - running_mean[c]);
      running_var[c] += momentum * (squares[c] / float(B > 1 ? B - 1 : 1) - running_var[c]);
    } else {
      mean[c] = running_mean[c];
      rstd[c] = 1.0f / sqrtf(running_var[c] + eps);
    }
  }
}

// mean and rstd = 1 / sqrt(variance + eps) of the columns of x (B, D). In training they are of this batch (mean first, then squared
// deviations) and move the running values: running += momentum (batch - running), with the unbiased variance (B - 1; the biased one when
// B is 1). Otherwise they are the running values. An empty batch is treated as if not in training.
inline void batch_statistics(const Tensor& x, Tensor& running_mean, Tensor& running_var, Tensor& mean, Tensor& rstd, bool training,
                             double momentum, double eps) {
  CHECK(x.dtype == DType::float32, "batch statistics: expected float32");
  const int64_t B = x.rows(), D = x.columns();
  const float* px = x.data<float>();
  const bool of_batch = training && B > 0;
  const Scratch<float> squares(of_batch ? D : 0);
  if (of_batch) {
    float* to = mean.data<float>();
    column_sums(px, 1, B, D, to, 1.0f / float(B));
    sum_columns(SquaredDeviation{px, to, D}, 1, B, D, ColumnOutputs<1, float>{{squares.data()}});
  }
  launch(batch_statistics_kernel, grid_of((D + 255) / 256), 256, 0, of_batch ? squares.data() : nullptr, B, D, running_mean.data<float>(),
         running_var.data<float>(), mean.data<float>(), rstd.data<float>(), float(momentum), float(eps));
}

}  // namespace galago::cuda
