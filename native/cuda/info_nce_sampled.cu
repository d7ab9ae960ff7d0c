/*
InfoNCE over listed negatives: row i has the scores of columns negatives[i][0 .. S), as often as listed, and of its positive.

Forward: a warp owns a row; groups of lanes take a negative each and keep running maxima and sums, merged at the end.
Backward: a warp writes the gradients of its row's S + 1 scores, the positive last, with their columns. dq_i sums a row's entries; for
dk the entries are sorted by column (stable, so in order of rows) and a block sums those of its column: ownership, no atomics.
Bound by the gathered rows of k: N S D elements forward, twice that backward. Shared memory as in segment_rows.cuh.
*/
#include "info_nce.cuh"
#include "segment_rows.cuh"
#include "sort.cuh"

namespace galago::cuda {

constexpr int row_warps = row_block / warp_size;

template <class T>
struct SampledProblem {
  const T *q, *k;
  const int32_t *positive, *negatives;
  const float* log_q;
  int64_t N, M, S, D;
  float scale;
  IndexReport report;

  // Column of entry s of row i, s = S for the positive.
  __device__ __forceinline__ int64_t column(int64_t i, int64_t s) const {
    if (s == S) return positive[i];
    const int64_t given = negatives[i * S + s];
    if (given < 0 || given >= M) report(i * S + s, given);
    return min(max(given, int64_t(0)), M - 1);
  }
};

// Score of (row, column), in every lane of the group; all lanes of the warp call.
template <int V, class T>
__device__ __forceinline__ float listed_score(const SampledProblem<T>& p, int64_t i, int64_t j, int width) {
  float a[V], b[V], sum = 0;
  for (int64_t d = lane() % width * V; d < p.D; d += width * V) {
    load_columns(p.q + i * p.D + d, a);
    load_columns(p.k + j * p.D + d, b);
#pragma unroll
    for (int v = 0; v < V; v++) sum += a[v] * b[v];
  }
  return p.scale * row_sum(sum, width) - (p.log_q ? p.log_q[j] : 0.0f);
}

template <int V, class T>
__global__ void info_nce_sampled_forward_kernel(SampledProblem<T> p, float* positive_scores, float* row_log_sums, int width) {
  for (int64_t i = int64_t(blockIdx.x) * row_warps + warp(); i < p.N; i += int64_t(gridDim.x) * row_warps) {
    LogSum sum = no_scores();
    for (int64_t first = 0; first < p.S; first += warp_size / width) {
      const int64_t s = first + lane() / width;
      const float score = listed_score<V>(p, i, p.column(i, min(s, p.S)), width);
      if (s < p.S) sum.add(score);
    }
    for (int offset = warp_size / 2; offset >= width; offset /= 2) sum.merge(shuffle_xor(sum, offset));
    const float score = listed_score<V>(p, i, p.positive[i], width);
    if (lane() == 0) {
      positive_scores[i] = score;
      row_log_sums[i] = sum.value();
    }
  }
}

// gradient, column (N, S + 1)
template <int V, class T>
__global__ void info_nce_sampled_gradient_kernel(SampledProblem<T> p, const float* factor, const float* log_sum, const float* at_positive,
                                                 float* gradient, int32_t* column, int width) {
  for (int64_t i = int64_t(blockIdx.x) * row_warps + warp(); i < p.N; i += int64_t(gridDim.x) * row_warps) {
    for (int64_t first = 0; first <= p.S; first += warp_size / width) {
      const int64_t s = first + lane() / width, j = p.column(i, min(s, p.S));
      const float score = listed_score<V>(p, i, j, width);
      if (s > p.S || lane() % width != 0) continue;
      gradient[i * (p.S + 1) + s] = p.scale * (s == p.S ? at_positive[i] : factor[i] * expf(score - log_sum[i]));
      column[i * (p.S + 1) + s] = int32_t(j);
    }
  }
}

// dq_i = sum over the entries of row i of gradient times k
template <int V, class T>
__global__ void info_nce_sampled_rows_kernel(SampledProblem<T> p, const float* gradient, const int32_t* column, T* dq, int width) {
  for (int64_t i = blockIdx.x; i < p.N; i += gridDim.x)
    segment_sums<V>(
        Segment{i * (p.S + 1), (i + 1) * (p.S + 1)}, p.D, width, [=](int64_t e) { return p.k + column[e] * p.D; },
        [=](int64_t e) { return gradient[e]; }, [=](int64_t d, float(&sums)[V]) { store_columns(dq + i * p.D + d, sums); });
}

// The first position with a key of at least `key`.
__device__ __forceinline__ int64_t lower_bound(const uint32_t* keys, int64_t n, int64_t key) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (int64_t(keys[middle]) < key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

__global__ void info_nce_sampled_keys_kernel(const int32_t* column, uint32_t* keys, int32_t* positions, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < n; e += stride) {
    keys[e] = uint32_t(column[e]);
    positions[e] = int32_t(e);
  }
}

// dk_j = sum over the entries with column j, which lie side by side in `keys`, of gradient times q
template <int V, class T>
__global__ void info_nce_sampled_columns_kernel(SampledProblem<T> p, const float* gradient, const uint32_t* keys, const int32_t* entries,
                                                T* dk, int width) {
  const int64_t n = p.N * (p.S + 1);
  for (int64_t j = blockIdx.x; j < p.M; j += gridDim.x)
    segment_sums<V>(
        Segment{lower_bound(keys, n, j), lower_bound(keys, n, j + 1)}, p.D, width,
        [=](int64_t at) { return p.q + entries[at] / (p.S + 1) * p.D; }, [=](int64_t at) { return gradient[entries[at]]; },
        [=](int64_t d, float(&sums)[V]) { store_columns(dk + j * p.D + d, sums); });
}

// ---- launchers

template <class T>
static SampledProblem<T> problem(const Tensor& q, const Tensor& k, const int32_t* positive, const Tensor& negatives, const float* log_q,
                                 double scale) {
  const int64_t M = k.shape[0];
  return {q.data<T>(),
          k.data<T>(),
          positive,
          negatives.data<int32_t>(),
          log_q,
          q.shape[0],
          M,
          negatives.shape[1],
          q.shape[1],
          float(scale),
          index_report("infoNce", "negatives", M)};
}

static unsigned warps_grid(int64_t rows) { return grid_of((rows + row_warps - 1) / row_warps); }

void info_nce_sampled_forward(const Tensor& q, const Tensor& k, const int32_t* positive, const Tensor& negatives, const float* log_q,
                              float* positive_scores, float* row_log_sums, double scale) {
  dispatch_float(q.dtype, [&]<class T>() {
    const SampledProblem<T> p = problem<T>(q, k, positive, negatives, log_q, scale);
    dispatch_columns<T>(
        [&]<int V>() {
          launch(info_nce_sampled_forward_kernel<V, T>, warps_grid(p.N), row_block, 0, p, positive_scores, row_log_sums, lanes_for(p.D, V));
        },
        p.D, p.q, p.k);
  });
}

void info_nce_sampled_backward(const Tensor& q, const Tensor& k, const int32_t* positive, const Tensor& negatives, const float* log_q,
                               const float* factor, const float* log_sum, const float* at_positive, Tensor& dq, Tensor& dk, double scale) {
  dispatch_float(q.dtype, [&]<class T>() {
    const SampledProblem<T> p = problem<T>(q, k, positive, negatives, log_q, scale);
    const int64_t entries = p.N * (p.S + 1);
    const Scratch<float> gradient(entries);
    const Scratch<int32_t> column(entries);
    T *pdq = dq.data<T>(), *pdk = dk.data<T>();
    dispatch_columns<T>(
        [&]<int V>() {
          const int width = lanes_for(p.D, V);
          launch(info_nce_sampled_gradient_kernel<V, T>, warps_grid(p.N), row_block, 0, p, factor, log_sum, at_positive, gradient.data(),
                 column.data(), width);
          if (dq) launch(info_nce_sampled_rows_kernel<V, T>, grid_of(p.N), segment_block, 0, p, gradient.data(), column.data(), pdq, width);
          if (!dk) return;
          RadixSort<uint32_t> sort(entries);
          launch(info_nce_sampled_keys_kernel, grid_of((entries + 255) / 256), 256, 0, column.data(), sort.keys(), sort.positions(),
                 entries);
          sort.sort(bits_for(uint64_t(p.M)));
          launch(info_nce_sampled_columns_kernel<V, T>, grid_of(p.M), segment_block, 0, p, gradient.data(), sort.keys(), sort.positions(),
                 pdk, width);
        },
        p.D, p.q, p.k, pdq, pdk);
  });
}

}  // namespace galago::cuda
