/*
Binary cross entropy from logits: loss = sum_i w_i (max(x, 0) - x y + log1p(e^-|x|)) / W, dlogits = dloss (sigmoid(x) - y) w / W, with
W = sum w, N without weights. Both sums in one pass over fixed chunks (row_sums.cuh); loss, W and dloss stay on the device. float32 only.
*/
#include "activation.cuh"
#include "map.cuh"
#include "row_sums.cuh"

namespace galago::cuda {

namespace {

// sums of the weighted losses and of the weights
struct LossTerm {
  const float *logits, *labels, *weights;
  __device__ void operator()(int64_t i, float (&sums)[2]) const {
    const float x = logits[i], w = weights ? weights[i] : 1.0f;
    sums[0] += w * ((x > 0 ? x : 0.0f) - x * labels[i] + log1pf(expf(-fabsf(x))));
    sums[1] += w;
  }
};

}  // namespace

// The number of logits is exact where a float32 sum of ones may not be.
static __global__ void bce_loss_kernel(const float* sums, bool weighted, float count, float* loss) {
  const float total = weighted ? sums[1] : count;
  if (threadIdx.x == 0) *loss = total > 0 ? sums[0] / total : 0.0f;
}

// `total`: the sum of weights, or null: `count`.
static __global__ void __launch_bounds__(256)
    bce_backward_kernel(const float* logits, const float* labels, const float* weights, const float* dloss, const float* total, float count,
                        float* dlogits, int64_t n, bool whole_packs) {
  const float W = total ? *total : count, factor = W > 0 ? *dloss / W : 0.0f;
  const auto slope = [=](float x, float y, float w) { return (sigmoid_of(x) - y) * factor * w; };
  const int64_t stride = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t packs = whole_packs ? n / 4 : 0;
  for (int64_t i = first; i < packs; i += stride) {
    const Pack<float> x = load_pack(logits + i * 4), y = load_pack(labels + i * 4);
    Pack<float> w{{1, 1, 1, 1}}, d;
    if (weights) w = load_pack(weights + i * 4);
#pragma unroll
    for (int k = 0; k < 4; k++) d.v[k] = slope(x.v[k], y.v[k], w.v[k]);
    store_pack(dlogits + i * 4, d);
  }
  for (int64_t i = packs * 4 + first; i < n; i += stride) dlogits[i] = slope(logits[i], labels[i], weights ? weights[i] : 1.0f);
}

// ---- launchers

void bce_with_logits_forward(const Tensor& logits, const Tensor& labels, const Tensor& weights, Tensor& loss) {
  CHECK(logits.dtype == DType::float32, "bce_with_logits: expected float32");
  const int64_t n = logits.size();
  const Scratch<float> sums(2);
  const LossTerm term{logits.data<float>(), labels.data<float>(), weights.data<float>()};
  row_sums(term, 1, n, RowOutputs<2, float>{{sums.data(), sums.data() + 1}});
  launch(bce_loss_kernel, 1, 32, 0, sums.data(), weights.defined(), float(n), loss.data<float>());
}

void bce_with_logits_backward(const Tensor& logits, const Tensor& labels, const Tensor& weights, const Tensor& dloss, Tensor& dlogits) {
  CHECK(logits.dtype == DType::float32, "bce_with_logits: expected float32");
  const int64_t n = logits.size();
  const float *x = logits.data<float>(), *y = labels.data<float>(), *w = weights.data<float>();
  const Scratch<float> total(1);
  if (w) row_sums(ArrayTerm<1, float>{w, 0}, 1, n, RowOutputs<1, float>{{total.data()}});
  float* dx = dlogits.data<float>();
  launch(bce_backward_kernel, grid_of((n + 1023) / 1024), 256, 0, x, y, w, dloss.data<float>(), w ? total.data() : nullptr, float(n), dx, n,
         packed<float>(0, x, y, w, dx));
}

}  // namespace galago::cuda
