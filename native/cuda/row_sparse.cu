/*
Optimizers on the touched rows of a table. The row-sparse gradient is reduced once (row_runs.cuh): time and memory follow the lookups,
never the table. Then `width` neighbouring threads own a touched row: the mean square of its gradient where the algorithm wants one, and
the update, 16 bytes at a time. The number of rows, the clip factor and the step live on the device; launches cover the capacity and
return early, a factor that is not finite writes nothing. float32 only.
*/
#include <cmath>

#include "row_runs.cuh"

namespace galago::cuda {

namespace {

// One lookup's share of the sum of its row.
struct alignas(16) Lookup {
  const float* value;
  float weight;
};

struct LookupAt {
  const Lookup* lookups;
  __device__ Lookup operator()(int64_t position) const { return lookups[position]; }
};

struct RowOfSums {
  float* sums;
  int64_t D;
  __device__ float* operator()(int64_t run, uint32_t) const { return sums + run * D; }
};

enum class RowAlgorithm { adagrad, adam, lazy_adam };

// What of a step is the same for all rows.
struct RowStep {
  float rate;  // with the bias correction of m, for lazy_adam with that of v too
  float root;  // one over the root of the bias correction of v
};

struct RowUpdate {
  float *table, *m, *v;
  const int32_t* rows;
  const float* sums;
  const int32_t* count;
  const double* clip;
  const RowStep* step;
  int64_t D;
  float keep, beta1, rest1, beta2, rest2, eps;  // keep = 1 - rate decay, rest = 1 - beta
};

}  // namespace

// Lookups of one piece, `at` lookups behind the start. Source and weight may be null: i and 1.
static __global__ void lookups_kernel(const int32_t* indices, const float* values, const int32_t* sources, const float* weights, int64_t n,
                                      int64_t at, int64_t num_rows, int64_t D, uint32_t* rows, int32_t* positions, Lookup* lookups) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t source = sources ? sources[i] : i;
    const int32_t row = indices[i];
    rows[at + i] = source >= 0 && row >= 0 && row < num_rows ? uint32_t(row) : uint32_t(num_rows);
    positions[at + i] = int32_t(at + i);
    lookups[at + i] = {values + source * D, weights ? weights[i] : 1.0f};
  }
}

static __global__ void touched_rows_kernel(const SortedLookups sorted, int32_t* rows, int64_t capacity) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t run = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; run < capacity; run += stride)
    rows[run] = run < *sorted.count ? int32_t(sorted.row[sorted.heads[run]]) : -1;
}

static __global__ void begin_step_kernel(RowAlgorithm algorithm, int32_t* count, const double* clip, RowStep* step, double learning_rate,
                                         double beta1, double beta2) {
  if (threadIdx.x != 0 || !std::isfinite(*clip)) return;
  const double t = double(++*count);
  if (algorithm == RowAlgorithm::adagrad) {
    *step = {float(learning_rate), 1.0f};
  } else {
    const double first = 1 - pow(beta1, t), root = sqrt(1 - pow(beta2, t));
    // lazy_adam: eps is added to the uncorrected root, as SparseAdam of PyTorch does
    *step = algorithm == RowAlgorithm::adam ? RowStep{float(learning_rate / first), float(1 / root)}
                                            : RowStep{float(learning_rate * root / first), 1.0f};
  }
}

template <RowAlgorithm ALGORITHM, int V>
__global__ void __launch_bounds__(row_block) row_update_kernel(const RowUpdate p, int width) {
  if (!std::isfinite(*p.clip)) return;
  const float clip = float(*p.clip);
  const RowStep step = *p.step;
  const int64_t D = p.D, count = *p.count, teams = row_block / width;
  const int64_t column = int64_t(threadIdx.x) % width * V;
  for (int64_t first = int64_t(blockIdx.x) * teams; first < count; first += int64_t(gridDim.x) * teams) {
    const int64_t i = first + threadIdx.x / width;
    const bool active = i < count;  // lanes behind the last row take part in the sums of their warp
    const int64_t row = active ? p.rows[i] : 0, end = active ? D : 0;
    const float* sums = p.sums + i * D;
    float g[V], param[V], m[V], v[V];

    float step_size = step.rate;
    if constexpr (ALGORITHM != RowAlgorithm::lazy_adam) {
      float squares = 0;
      for (int64_t d = column; d < end; d += width * V) {
        load_columns(sums + d, g);
#pragma unroll
        for (int k = 0; k < V; k++) squares += (clip * g[k]) * (clip * g[k]);
      }
      const float mean_square = row_sum(squares, width) / float(D);
      const float before = active ? p.v[row] : 0.0f;
      const float moment = ALGORITHM == RowAlgorithm::adagrad ? before + mean_square : p.beta2 * before + p.rest2 * mean_square;
      step_size = step.rate / (sqrtf(moment) * step.root + p.eps);
      __syncwarp();  // every thread of the row has read v
      if (active && column == 0) p.v[row] = moment;
    }

    for (int64_t d = column; d < end; d += width * V) {
      const int64_t at = row * D + d;
      load_columns(sums + d, g);
      load_columns(p.table + at, param);
      if constexpr (ALGORITHM != RowAlgorithm::adagrad) load_columns(p.m + at, m);
      if constexpr (ALGORITHM == RowAlgorithm::lazy_adam) load_columns(p.v + at, v);
#pragma unroll
      for (int k = 0; k < V; k++) {
        const float gradient = clip * g[k];
        if constexpr (ALGORITHM == RowAlgorithm::adagrad) {
          param[k] = p.keep * param[k] - step_size * gradient;
        } else {
          m[k] = p.beta1 * m[k] + p.rest1 * gradient;
          if constexpr (ALGORITHM == RowAlgorithm::adam) {
            param[k] = p.keep * param[k] - step_size * m[k];
          } else {
            v[k] = p.beta2 * v[k] + p.rest2 * gradient * gradient;
            param[k] -= step_size * m[k] / (sqrtf(v[k]) + p.eps);
          }
        }
      }
      store_columns(p.table + at, param);
      if constexpr (ALGORITHM != RowAlgorithm::adagrad) store_columns(p.m + at, m);
      if constexpr (ALGORITHM == RowAlgorithm::lazy_adam) store_columns(p.v + at, v);
    }
  }
}

// ---- launchers

void row_sparse_reduce(const TensorList& indices, const TensorList& values, const TensorList& sources, const TensorList& weights,
                       Tensor& rows, Tensor& sums, Tensor& count, int64_t num_rows) {
  const size_t pieces = indices.size();
  CHECK(values.size() == pieces && sources.size() == pieces && weights.size() == pieces, "row_sparse_reduce: lists differ in length");
  CHECK(sums.dtype == DType::float32, "row_sparse_reduce: expected float32");
  const int64_t D = sums.shape[1];
  int64_t total = 0;
  for (const Tensor& x : indices) total += x.size();
  if (total == 0) {
    fill(rows, -1);
    return fill(count, 0);
  }

  RowRuns runs(total, num_rows);
  const Scratch<Lookup> lookups(total);
  float* to = sums.data<float>();
  bool whole_packs = packed<float>(D, to);
  int64_t at = 0;
  for (size_t p = 0; p < pieces; p++) {
    const int64_t n = indices[p].size();
    const float* value = values[p].data<float>();
    whole_packs = whole_packs && packed<float>(D, value);
    launch(lookups_kernel, grid_of((n + 255) / 256), 256, 0, indices[p].data<int32_t>(), value,
           sources[p].size() ? sources[p].data<int32_t>() : nullptr, weights[p].size() ? weights[p].data<float>() : nullptr, n, at,
           num_rows, D, runs.rows(), runs.positions(), lookups.data());
    at += n;
  }
  runs.sum<float>(D, whole_packs, LookupAt{lookups.data()}, RowOfSums{to, D}, count.data<int32_t>());
  launch(touched_rows_kernel, grid_of((rows.size() + 255) / 256), 256, 0, runs.sorted(), rows.data<int32_t>(), rows.size());
}

template <RowAlgorithm ALGORITHM>
static void update(RowUpdate p, Tensor& step, int64_t capacity, double learning_rate, double beta1, double beta2) {
  const Scratch<RowStep> of_step(1);
  p.step = of_step.data();
  launch(begin_step_kernel, 1, 32, 0, ALGORITHM, step.data<int32_t>(), p.clip, of_step.data(), learning_rate, beta1, beta2);
  const float* moments = ALGORITHM == RowAlgorithm::lazy_adam ? p.v : nullptr;
  dispatch_columns<float>(
      [&]<int V>() {
        const int width = lanes_for(p.D, V), teams = row_block / width;
        launch(row_update_kernel<ALGORITHM, V>, grid_of((capacity + teams - 1) / teams), row_block, 0, p, width);
      },
      p.D, p.table, p.sums, p.m, moments);
}

static RowUpdate update_of(Tensor& table, Tensor& v, const Tensor& rows, const Tensor& sums, const Tensor& count, const Tensor& clip) {
  CHECK(table.dtype == DType::float32, "row_sparse: expected float32");
  RowUpdate p{};
  p.table = table.data<float>();
  p.v = v.data<float>();
  p.rows = rows.data<int32_t>();
  p.sums = sums.data<float>();
  p.count = count.data<int32_t>();
  p.clip = clip.data<double>();
  p.D = table.shape[1];
  return p;
}

void rowwise_adagrad(Tensor& table, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
                     const Tensor& clip, double learning_rate, double weight_decay, double eps) {
  RowUpdate p = update_of(table, v, rows, sums, count, clip);
  p.keep = float(1 - learning_rate * weight_decay);
  p.eps = float(eps);
  update<RowAlgorithm::adagrad>(p, step, rows.size(), learning_rate, 0, 0);
}

static void set_betas(RowUpdate& p, Tensor& m, double beta1, double beta2, double eps) {
  p.m = m.data<float>();
  p.beta1 = float(beta1);
  p.rest1 = float(1 - beta1);
  p.beta2 = float(beta2);
  p.rest2 = float(1 - beta2);
  p.eps = float(eps);
}

void rowwise_adam(Tensor& table, Tensor& m, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
                  const Tensor& clip, double learning_rate, double weight_decay, double beta1, double beta2, double eps) {
  RowUpdate p = update_of(table, v, rows, sums, count, clip);
  set_betas(p, m, beta1, beta2, eps);
  p.keep = float(1 - learning_rate * weight_decay);
  update<RowAlgorithm::adam>(p, step, rows.size(), learning_rate, beta1, beta2);
}

void lazy_adam(Tensor& table, Tensor& m, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
               const Tensor& clip, double learning_rate, double beta1, double beta2, double eps) {
  RowUpdate p = update_of(table, v, rows, sums, count, clip);
  set_betas(p, m, beta1, beta2, eps);
  update<RowAlgorithm::lazy_adam>(p, step, rows.size(), learning_rate, beta1, beta2);
}

}  // namespace galago::cuda
