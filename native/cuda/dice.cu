/*
Dice (Zhou et al., "Deep Interest Network", 2018): a gate at the batch's mean, with a slope alpha below it. With z = (x - mean) rstd and
p = sigmoid(z): out = x (p + alpha (1 - p)); dz = dout x (1 - alpha) p (1 - p), dx = dout (p + alpha (1 - p)) + rstd (dz - (sum dz +
z sum(dz z)) / B), dalpha = sum dout x (1 - p). One pass for the three sums (column_sums.cuh), one for dx. float32 only.
*/
#include "activation.cuh"
#include "batch_statistics.cuh"

namespace galago::cuda {

namespace {

struct Gate {
  const float *alpha, *mean, *rstd;
  __device__ float z(float x, int64_t c) const { return (x - mean[c]) * rstd[c]; }
  __device__ float operator()(const float (&x)[1], int64_t c) const {
    const float p = sigmoid_of(z(x[0], c));
    return x[0] * (p + alpha[c] * (1.0f - p));
  }
  __device__ float dz(float x, float dout, float p, int64_t c) const { return dout * x * (1.0f - alpha[c]) * p * (1.0f - p); }
};

// sums of dz, dz z and dout x (1 - p)
struct GateTerm {
  Gate gate;
  const float *x, *dout;
  int64_t columns;
  __device__ void operator()(int64_t row, int64_t c, float (&sums)[3]) const {
    const float value = x[row * columns + c], d = dout[row * columns + c];
    const float z = gate.z(value, c), p = sigmoid_of(z), dz = gate.dz(value, d, p, c);
    sums[0] += dz;
    sums[1] += dz * z;
    sums[2] += d * value * (1.0f - p);
  }
};

struct GateBackward {  // (x, dout)
  Gate gate;
  const float *sum_dz, *sum_dzz;
  float share;  // 1 / B, or 0 when the statistics are constants
  __device__ float operator()(const float (&values)[2], int64_t c) const {
    const float x = values[0], d = values[1];
    const float z = gate.z(x, c), p = sigmoid_of(z);
    return d * (p + gate.alpha[c] * (1.0f - p)) + gate.rstd[c] * (gate.dz(x, d, p, c) - (sum_dz[c] + z * sum_dzz[c]) * share);
  }
};

}  // namespace

// ---- launchers

void dice_forward(const Tensor& x, const Tensor& alpha, Tensor& running_mean, Tensor& running_var, Tensor& out, Tensor& mean, Tensor& rstd,
                  bool training, double momentum, double eps) {
  batch_statistics(x, running_mean, running_var, mean, rstd, training, momentum, eps);
  map_columns(Gate{alpha.data<float>(), mean.data<float>(), rstd.data<float>()}, MapInputs<1, float>{x.data<float>()}, out.data<float>(),
              x.rows(), x.columns());
}

void dice_backward(const Tensor& x, const Tensor& alpha, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                   Tensor& dalpha, bool training) {
  CHECK(x.dtype == DType::float32, "dice: expected float32");
  const int64_t B = x.rows(), D = x.columns();
  const float *px = x.data<float>(), *pd = dout.data<float>();
  const Gate gate{alpha.data<float>(), mean.data<float>(), rstd.data<float>()};
  const Scratch<float> sums(2 * D);
  sum_columns(GateTerm{gate, px, pd, D}, 1, B, D, ColumnOutputs<3, float>{{sums.data(), sums.data() + D, dalpha.data<float>()}});
  if (dx)
    map_columns(GateBackward{gate, sums.data(), sums.data() + D, training && B > 0 ? 1.0f / float(B) : 0.0f}, MapInputs<2, float>{px, pd},
                dx.data<float>(), B, D);
}

}  // namespace galago::cuda
