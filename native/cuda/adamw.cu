/*
AdamW over many dense tensors, and the gradient norm that decides about clipping and skipping a step. float32, norms in float64.

adamw: one small kernel counts the steps and computes each tensor's bias corrections in float64, then one launch updates all chunks of all
tensors (tensor_chunks.cuh), 16 bytes at a time: 28 bytes per parameter. Clip factor and step counts are read on the device; a factor
that is not finite writes nothing.

gradient_norm: a sum of squares in float64 for each chunk, added by one block so that no order matters. Of a
row-sparse gradient only the first `count` rows hold anything: the launch covers its capacity, chunks behind the count give 0.
*/
#include <cmath>

#include "reduce.cuh"
#include "tensor_chunks.cuh"
#include "vec.cuh"

namespace galago::cuda {

namespace {

struct AdamTensor {
  float* param;
  const float* grad;
  float *m, *v;
  int32_t* step;
  int64_t size, first_chunk;
};

struct AdamRates {
  float keep, beta1, rest1, beta2, rest2, eps;  // keep = 1 - rate decay, rest = 1 - beta
};

// Of one tensor at its step: learning rate over the bias correction of m, and one over the root of that of v.
struct AdamCorrection {
  float rate, root;
};

struct NormTensor {
  const float* x;
  const int32_t* rows;  // how many rows of `columns` count, null: all `size` elements
  int64_t size, columns, first_chunk;
};

}  // namespace

static __global__ void adamw_begin_kernel(int32_t* const* steps, int count, const double* clip, AdamCorrection* corrections,
                                          double learning_rate, double beta1, double beta2) {
  if (!std::isfinite(*clip)) return;
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += int(gridDim.x * blockDim.x)) {
    const double step = double(++*steps[i]);
    corrections[i] = {float(learning_rate / (1 - pow(beta1, step))), float(1 / sqrt(1 - pow(beta2, step)))};
  }
}

__device__ __forceinline__ void adamw_update(float& param, float g, float& m, float& v, const AdamRates& rates, AdamCorrection correction) {
  m = rates.beta1 * m + rates.rest1 * g;
  v = rates.beta2 * v + rates.rest2 * g * g;
  param = rates.keep * param - correction.rate * m / (sqrtf(v) * correction.root + rates.eps);
}

static __global__ void __launch_bounds__(256) adamw_kernel(const AdamTensor* tensors, int count, const AdamCorrection* corrections,
                                                           int64_t chunks, const double* clip, const AdamRates rates) {
  if (!std::isfinite(*clip)) return;
  const float scale = float(*clip);
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int entry = entry_of(tensors, count, chunk);
    const AdamTensor t = tensors[entry];
    const AdamCorrection correction = corrections[entry];
    const int64_t begin = (chunk - t.first_chunk) * tensor_chunk, end = min(begin + tensor_chunk, t.size);
    const uint64_t addresses = reinterpret_cast<uintptr_t>(t.param) | reinterpret_cast<uintptr_t>(t.grad) |
                               reinterpret_cast<uintptr_t>(t.m) | reinterpret_cast<uintptr_t>(t.v);
    const int64_t packs_end = addresses % 16 == 0 ? begin + (end - begin) / 4 * 4 : begin;
#pragma unroll 2
    for (int64_t i = begin + int64_t(threadIdx.x) * 4; i < packs_end; i += 256 * 4) {
      const Pack<float> g = load_pack(t.grad + i);
      Pack<float> param = load_pack(t.param + i), m = load_pack(t.m + i), v = load_pack(t.v + i);
#pragma unroll
      for (int k = 0; k < 4; k++) adamw_update(param.v[k], scale * g.v[k], m.v[k], v.v[k], rates, correction);
      store_pack(t.param + i, param);
      store_pack(t.m + i, m);
      store_pack(t.v + i, v);
    }
    for (int64_t i = packs_end + threadIdx.x; i < end; i += 256)
      adamw_update(t.param[i], scale * t.grad[i], t.m[i], t.v[i], rates, correction);
  }
}

// partials[chunk] = sum of squares of the chunk
static __global__ void __launch_bounds__(256) squares_kernel(const NormTensor* tensors, int count, int64_t chunks, double* partials) {
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const NormTensor t = tensors[entry_of(tensors, count, chunk)];
    const int64_t size = t.rows ? min(*t.rows * t.columns, t.size) : t.size;
    const int64_t begin = (chunk - t.first_chunk) * tensor_chunk, end = min(begin + tensor_chunk, size);
    const int64_t packs_end = reinterpret_cast<uintptr_t>(t.x) % 16 == 0 && end > begin ? begin + (end - begin) / 4 * 4 : begin;
    double sum = 0;
#pragma unroll 4
    for (int64_t i = begin + int64_t(threadIdx.x) * 4; i < packs_end; i += 256 * 4) {
      const Pack<float> x = load_pack(t.x + i);
#pragma unroll
      for (int k = 0; k < 4; k++) sum += double(x.v[k]) * double(x.v[k]);
    }
    for (int64_t i = packs_end + threadIdx.x; i < end; i += 256) sum += double(t.x[i]) * double(t.x[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[chunk] = sum;
  }
}

// One block. Partial sums become integers in units of 2^-61 of the largest one's power of two: integers add up to the same in every order,
// so the order of the parameters changes no bit, and what is cut off lies far below a rounding.
static __global__ void __launch_bounds__(256) norm_kernel(const double* partials, int64_t chunks, double* norm) {
  double largest = 0;
  int worst = 0;  // 1: infinity, 2: NaN
  for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += 256) {
    const double x = partials[chunk];
    worst = max(worst, std::isnan(x) ? 2 : std::isinf(x) ? 1 : 0);
    largest = x > largest ? x : largest;
  }
  worst = block_max(worst);
  if (worst > 0) {
    if (threadIdx.x == 0) *norm = worst == 2 ? double(NAN) : double(INFINITY);
    return;
  }
  largest = block_max(largest);
  const int shift = largest > 0 ? 61 - ilogb(largest) : 0;
  unsigned long long high = 0, low = 0;  // the sum is 2^32 high + low
  for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += 256) {
    const auto units = static_cast<unsigned long long>(ldexp(partials[chunk], shift));  // below 2^62
    high += units >> 32;
    low += units & 0xffffffffu;
  }
  high = block_sum(high);
  low = block_sum(low);
  if (threadIdx.x == 0) *norm = sqrt(ldexp(double(high) * 4294967296.0 + double(low), -shift));
}

static __global__ void clip_factor_kernel(const double* norm, double* factor, int32_t* skipped, double max_norm) {
  if (threadIdx.x != 0) return;
  const bool finite = std::isfinite(*norm);
  *factor = finite ? fmin(1.0, max_norm / (*norm + 1e-6)) : NAN;
  if (!finite) ++*skipped;
}

// ---- launchers

void adamw(TensorList& params, const TensorList& grads, TensorList& m, TensorList& v, TensorList& steps, const Tensor& clip,
           double learning_rate, double weight_decay, double beta1, double beta2, double eps) {
  CHECK(params.size() == grads.size() && params.size() == m.size() && params.size() == v.size() && params.size() == steps.size(),
        "adamw: lists differ in length");
  std::vector<AdamTensor> tensors;
  std::vector<int32_t*> counters;  // the first ones belong to `tensors`; then those of tensors without elements
  std::vector<int32_t*> empty;
  int64_t chunks = 0;
  for (size_t i = 0; i < params.size(); i++) {
    CHECK(params[i].dtype == DType::float32, "adamw: expected float32");
    const int64_t size = params[i].size();
    int32_t* step = steps[i].data<int32_t>();
    (size > 0 ? counters : empty).push_back(step);
    if (size == 0) continue;
    tensors.push_back({params[i].data<float>(), grads[i].data<float>(), m[i].data<float>(), v[i].data<float>(), step, size, chunks});
    chunks += chunks_of(size);
  }
  counters.insert(counters.end(), empty.begin(), empty.end());
  if (counters.empty()) return;
  const EntryTable<int32_t*> counter_table(counters);
  const Scratch<AdamCorrection> corrections(int64_t(counters.size()));
  const EntryTable<AdamTensor> table(tensors);  // before the first launch: out of memory, a step has not begun
  const double* factor = clip.data<double>();
  launch(adamw_begin_kernel, grid_of((int64_t(counters.size()) + 255) / 256), 256, 0, counter_table.data(), int(counters.size()), factor,
         corrections.data(), learning_rate, beta1, beta2);
  const AdamRates rates{
      float(1 - learning_rate * weight_decay), float(beta1), float(1 - beta1), float(beta2), float(1 - beta2), float(eps)};
  launch(adamw_kernel, grid_of(chunks), 256, 0, table.data(), int(tensors.size()), corrections.data(), chunks, factor, rates);
}

void gradient_norm(const TensorList& grads, const TensorList& rows, const TensorList& counts, Tensor& norm) {
  CHECK(rows.size() == counts.size(), "gradient_norm: lists differ in length");
  std::vector<NormTensor> tensors;
  int64_t chunks = 0;
  const auto add = [&](const Tensor& x, const int32_t* count) {
    CHECK(x.dtype == DType::float32, "gradient_norm: expected float32");
    if (x.size() == 0) return;
    tensors.push_back({x.data<float>(), count, x.size(), x.columns(), chunks});
    chunks += chunks_of(x.size());
  };
  for (const Tensor& grad : grads) add(grad, nullptr);
  for (size_t i = 0; i < rows.size(); i++) add(rows[i], counts[i].data<int32_t>());
  const EntryTable<NormTensor> table(tensors);
  const Scratch<double> partials(chunks);
  launch(squares_kernel, grid_of(chunks), 256, 0, table.data(), int(tensors.size()), chunks, partials.data());
  launch(norm_kernel, 1, 256, 0, partials.data(), chunks, norm.data<double>());
}

void clip_factor(const Tensor& norm, Tensor& factor, Tensor& skipped, double max_norm) {
  launch(clip_factor_kernel, 1, 32, 0, norm.data<double>(), factor.data<double>(), skipped.data<int32_t>(), max_norm);
}

}  // namespace galago::cuda
