/*
InfoNCE: loss_i = log(1 + n_i), n_i = sum over the negatives j of row i of e^(s_ij - s_ipos), s_ij = scale q_i.k_j - log_q_j.

The negatives' log-sum L_i is kept apart from the positive's score, so loss_i = softplus(L_i - s_ipos) and the gradient at the
positive, -sigmoid(L_i - s_ipos), keep their digits where p_ipos is nearly 1. The scores exist for one 64 x 64 tile at a time, in
registers, never as a matrix.

Forward: a piece (Pieces, info_nce.cuh) streams tiles of columns past tiles of rows. Every thread keeps running maxima and sums of its
rows; the 16 threads of a row merge at the end of the piece. No bound of the scores is needed, so `normalized` is not read. Symmetric:
the tile's columns are summed over its rows in a fixed order and added to the column sums of the piece's row chunk. One partial sum per
(column chunk, row) and (row chunk, column), merged in order.

Backward: dq and dk are one kernel with the sides exchanged. A piece owns 64 elements of a side and up to 256 columns of their gradient;
it computes each tile of scores again, turns it into the gradient of the scores and multiplies that with the tile of the other side.
Where there are few pieces the other side is split, one partial gradient per split, added in order. No gradient is skipped for being
small: at N = 65,536 nearly all of them are.

Products on CUDA cores in float32, 256 threads, 4 x 4 results a thread: 2 reads of 16 bytes for 16 multiply-adds.

Shared memory: two tiles of 32 columns, transposed, 17 KB, together also the other side's tile of the second product; backward: 17 KB of
score gradients; symmetric forward: 4 KB of column sums. Registers (sm_80 and sm_90, no spills): forward 96 to 115, backward 128 at most,
so that two blocks fit.
*/
#include <type_traits>

#include "info_nce.cuh"

namespace galago::cuda {

constexpr int tile_threads = 256;
constexpr int depth = 32;      // columns of q and k that lie in shared memory at a time
constexpr int pitch = 64 + 4;  // of a tile in shared memory: rows stay aligned to 16 bytes
constexpr int group = 256;     // columns of a gradient that a piece owns, at most
static_assert(2 * depth * pitch == score_tile * pitch, "the tiles of the first product make room for the one of the second");

template <int n>
struct alignas(16) Floats {
  float at[n];
};

// Rows first .. first + 63 of x (count, D), columns from .. from + 31, transposed: tile[d][row]. Zero outside.
template <int V, class T>
__device__ __forceinline__ void load_transposed(const T* x, int first, int count, int from, int D, float* tile) {
  const int row = int(threadIdx.x) % 64;
#pragma unroll
  for (int d = int(threadIdx.x) / 64 * V; d < depth; d += tile_threads / 64 * V) {
    float v[V] = {};
    if (first + row < count && from + d < D) load_columns(x + int64_t(first + row) * D + from + d, v);
#pragma unroll
    for (int i = 0; i < V; i++) tile[(d + i) * pitch + row] = v[i];
  }
}

// Rows first .. first + 63 of x (count, D), columns from .. from + 63: tile[row][d]. Zero outside.
template <int V, class T>
__device__ __forceinline__ void load_rows(const T* x, int first, int count, int from, int D, float* tile) {
  constexpr int threads = 64 / V;  // of a row
  const int d = int(threadIdx.x) % threads * V;
#pragma unroll 1
  for (int row = int(threadIdx.x) / threads; row < 64; row += tile_threads / threads) {
    float v[V] = {};
    if (first + row < count && from + d < D) load_columns(x + int64_t(first + row) * D + from + d, v);
#pragma unroll
    for (int i = 0; i < V; i++) tile[row * pitch + d + i] = v[i];
  }
}

// c[r][s] += sum over l of a[l][4 y + r] b[l][4 x + s], for thread (x, y) of 16 x 16.
template <int LENGTH, int UNROLL>
__device__ __forceinline__ void multiply(const float* a, const float* b, float (&c)[4][4]) {
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
#pragma unroll UNROLL
  for (int l = 0; l < LENGTH; l++) {
    const Pack<float> u = load_pack(a + l * pitch + 4 * y), v = load_pack(b + l * pitch + 4 * x);
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int s = 0; s < 4; s++) c[r][s] += u.v[r] * v.v[s];
  }
}

// The dot products of 64 rows of `own` with 64 of `other`. Begins with a barrier; the tiles are still being read at the end.
template <int V, int UNROLL, class T>
__device__ __forceinline__ void dot_products(const Side<T>& own, int own_first, const Side<T>& other, int other_first, int D, float* tiles,
                                             float (&s)[4][4]) {
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++) s[r][c] = 0;
  for (int d = 0; d < D; d += depth) {
    __syncthreads();
    load_transposed<V>(own.x, own_first, own.count, d, D, tiles);
    load_transposed<V>(other.x, other_first, other.count, d, D, tiles + depth * pitch);
    __syncthreads();
    multiply<depth, UNROLL>(tiles, tiles + depth * pitch, s);
  }
}

template <int V, bool COLUMNS, class T>
__global__ void __launch_bounds__(tile_threads, 2)
    info_nce_forward_kernel(Side<T> rows, Side<T> columns, int D, Pieces pieces, int kinds, float scale, float* positive_scores,
                            LogSum* row_parts, LogSum* column_parts) {
  SHARED(Floats<2 * depth * pitch>, tile_memory);
  float* const tiles = tile_memory.at;
  SHARED(LogSum[COLUMNS ? 8 * 64 : 1], column_sums);  // of each warp's 8 rows
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
  for (int64_t piece = blockIdx.x; piece < pieces.row_chunks * pieces.column_chunks; piece += gridDim.x) {
    const int64_t row_chunk = piece / pieces.column_chunks, column_chunk = piece % pieces.column_chunks;
    for (int64_t tile = 0; tile < pieces.row_tiles; tile++) {
      const int first = int(row_chunk * pieces.row_tiles + tile) * score_tile;
      if (first >= rows.count) break;
      const auto i = [=](int r) { return first + 4 * y + r; };
      LogSum sums[4] = {no_scores(), no_scores(), no_scores(), no_scores()};
      for (int64_t t = 0; t < pieces.column_tiles; t++) {
        const int begin = int(column_chunk * pieces.column_tiles + t) * score_tile;
        if (begin >= columns.count) break;
        const auto j = [=](int c) { return begin + 4 * x + c; };
        float s[4][4];
        dot_products<V, 4>(rows, first, columns, begin, D, tiles, s);
        const unsigned positive = finish_scores<4, 4>(rows, columns, kinds, scale, i, j, s);
#pragma unroll
        for (int r = 0; r < 4; r++) {
#pragma unroll
          for (int c = 0; c < 4; c++)
            if (positive >> (4 * r + c) & 1) {
              positive_scores[i(r)] = s[r][c];
              s[r][c] = -INFINITY;
            }
          sums[r].add(s[r]);
        }
        if constexpr (COLUMNS) {
#pragma unroll
          for (int c = 0; c < 4; c++) {
            const float of_rows[4] = {s[0][c], s[1][c], s[2][c], s[3][c]};
            const LogSum sum = log_sum_of_lanes(of_rows, 16);  // with the other four rows of the warp
            if (lane() < 16) column_sums[warp() * 64 + 4 * x + c] = sum;
          }
          __syncthreads();
          const int column = begin + int(threadIdx.x);
          if (threadIdx.x < 64 && column < columns.count) {
            LogSum* part = column_parts + row_chunk * columns.count + column;
            LogSum sum = tile == 0 ? no_scores() : *part;
            for (int w = 0; w < 8; w++) sum.merge(column_sums[w * 64 + threadIdx.x]);
            *part = sum;
          }
          __syncthreads();
        }
      }
#pragma unroll
      for (int r = 0; r < 4; r++) {
        for (int offset = 8; offset > 0; offset /= 2) sums[r].merge(shuffle_xor(sums[r], offset));
        if (x == 0 && i(r) < rows.count) row_parts[column_chunk * rows.count + i(r)] = sums[r];
      }
    }
  }
}

// out_i = log-sum over the parts of i, in order. parts (count, n)
__global__ void info_nce_merge_kernel(const LogSum* parts, int64_t count, float* out, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    LogSum sum = no_scores();
    for (int64_t p = 0; p < count; p++) sum.merge(parts[p * n + i]);
    out[i] = sum.value();
  }
}

// The mean over rows, in two stages: partial[c] = (sum of w loss, sum of w) over a chunk of rows, then totals and loss over the chunks.
constexpr int64_t loss_chunk = 1024;

struct LossSums {
  float loss, weight;
};

__global__ void info_nce_loss_kernel(const float* weights, const float* positive_scores, const float* row_log_sums,
                                     const float* column_log_sums, LossSums* partial, int64_t N) {
  for (int64_t chunk = blockIdx.x; chunk * loss_chunk < N; chunk += gridDim.x) {
    float loss = 0, weight = 0;
    for (int64_t k = threadIdx.x; k < loss_chunk; k += blockDim.x) {
      const int64_t i = chunk * loss_chunk + k;
      if (i >= N) break;
      const float w = weights ? weights[i] : 1.0f;
      float of_row = softplus(row_log_sums[i] - positive_scores[i]);
      if (column_log_sums) of_row = 0.5f * (of_row + softplus(column_log_sums[i] - positive_scores[i]));
      loss += w * of_row;
      weight += w;
    }
    loss = block_sum(loss);
    weight = block_sum(weight);
    if (threadIdx.x == 0) partial[chunk] = {loss, weight};
  }
}

// One block. totals[0] = sums over all rows; loss may be null.
__global__ void info_nce_mean_kernel(const LossSums* partial, int64_t chunks, LossSums* totals, float* loss) {
  float sum = 0, weight = 0;
  for (int64_t c = threadIdx.x; c < chunks; c += blockDim.x) sum += partial[c].loss, weight += partial[c].weight;
  sum = block_sum(sum);
  weight = block_sum(weight);
  if (threadIdx.x != 0) return;
  *totals = {sum, weight};
  if (loss) *loss = weight > 0 ? sum / weight : 0.0f;
}

// What backward needs of every row (or column): see Side.
__global__ void info_nce_terms_kernel(const float* weights, const float* positive_scores, const float* row_log_sums,
                                      const float* column_log_sums, const LossSums* totals, const float* dloss, float* factor,
                                      float* row_sums, float* column_sums, float* at_positive, int64_t N) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  const float share = totals->weight > 0 ? *dloss / totals->weight * (column_log_sums ? 0.5f : 1.0f) : 0.0f;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < N; i += stride) {
    const float f = share * (weights ? weights[i] : 1.0f), positive = positive_scores[i];
    const auto sigmoid = [](float x) { return 1.0f / (1.0f + expf(-x)); };
    float difference = row_log_sums[i] - positive, at = sigmoid(difference);
    row_sums[i] = positive + softplus(difference);
    if (column_log_sums) {
      difference = column_log_sums[i] - positive;
      at += sigmoid(difference);
      column_sums[i] = positive + softplus(difference);
    }
    factor[i] = f;
    at_positive[i] = -f * at;
  }
}

// partial[split][element of own][d] = sum over a part of `other` of the score gradient times other[d].
template <int V, int CHUNKS, class T>
__global__ void __launch_bounds__(tile_threads, 2) info_nce_backward_kernel(Side<T> own, Side<T> other, int D, int groups, int splits,
                                                                            int split_tiles, int kinds, float scale, float* partial) {
  SHARED(Floats<2 * depth * pitch>, tile_memory);
  float* const tiles = tile_memory.at;
  SHARED(Floats<score_tile * pitch>, gradient_memory);
  float* const gradients = gradient_memory.at;  // [other][own]
  constexpr int unroll = CHUNKS == 4 ? 1 : 4;   // more would not fit into the registers
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
  const int64_t pieces = int64_t(groups) * splits * ((own.count + score_tile - 1) / score_tile);
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    const int split = int(piece % splits), from = int(piece / splits % groups) * group;
    const int first = int(piece / splits / groups) * score_tile;
    const auto i = [=](int r) { return first + 4 * y + r; };
    float sums[CHUNKS][4][4] = {};
    for (int t = 0; t < split_tiles; t++) {
      const int begin = (split * split_tiles + t) * score_tile;
      if (begin >= other.count) break;
      float s[4][4];
      dot_products<V, unroll>(own, first, other, begin, D, tiles, s);
#pragma unroll
      for (int c = 0; c < 4; c++) store_pack(gradients + (4 * x + c) * pitch + 4 * y, Pack<float>{s[0][c], s[1][c], s[2][c], s[3][c]});
      __syncthreads();
      // In place, 16 scores of one element a thread: in registers the sums leave no room for masks and log-sums
      const auto element = [=](int) { return first + int(threadIdx.x) % 64; };
#pragma unroll 1
      for (int l = int(threadIdx.x) / 64 * 16, end = l + 16; l < end; l += 4) {
        const auto j = [=](int c) { return begin + l + c; };
        float* of_four = gradients + l * pitch + threadIdx.x % 64;
        float of_element[1][4];
#pragma unroll
        for (int c = 0; c < 4; c++) of_element[0][c] = of_four[c * pitch];
        const unsigned positive = finish_scores<1, 4>(own, other, kinds, scale, element, j, of_element);
        score_gradient<1, 4>(own, other, positive, element, j, of_element);
#pragma unroll
        for (int c = 0; c < 4; c++) of_four[c * pitch] = of_element[0][c];
      }
#pragma unroll
      for (int chunk = 0; chunk < CHUNKS; chunk++) {
        if (from + chunk * 64 >= D) break;
        __syncthreads();
        load_rows<V>(other.x, begin, other.count, from + chunk * 64, D, tiles);
        __syncthreads();
        multiply<score_tile, unroll>(gradients, tiles, sums[chunk]);
      }
    }
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
          const int d = from + chunk * 64 + 4 * x + c;
          if (i(r) < own.count && d < D) partial[(int64_t(split) * own.count + i(r)) * D + d] = sums[chunk][r][c];
        }
  }
}

// out = scale * sum over the splits, in order. partial (splits, n)
template <class T>
__global__ void info_nce_reduce_kernel(const float* partial, int64_t splits, T* out, int64_t n, float scale) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    float sum = 0;
    for (int64_t p = 0; p < splits; p++) sum += partial[p * n + i];
    out[i] = from_float<T>(scale * sum);
  }
}

// The column of each row's positive: as given, made safe to use, or i.
__global__ void info_nce_positives_kernel(const int32_t* positives, int32_t* out, int64_t N, int64_t M, IndexReport report) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < N; i += stride) {
    const int64_t given = positives ? positives[i] : i;
    if (given < 0 || given >= M) report(i, given);
    out[i] = int32_t(min(max(given, int64_t(0)), M - 1));
  }
}

// ---- launchers

static unsigned element_grid(int64_t n) { return grid_of((n + 255) / 256); }

static void find_positives(const Tensor& positives, int64_t N, int64_t M, int32_t* out) {
  CHECK(std::max(N, M) < INT32_MAX - mma_own, "infoNce: rows are numbered in 32 bits");
  launch(info_nce_positives_kernel, element_grid(N), 256, 0, positives.data<int32_t>(), out, N, M, index_report("infoNce", "positives", M));
}

static void loss_totals(const float* weights, const Tensor& positive_scores, const Tensor& row_log_sums, const Tensor& column_log_sums,
                        LossSums* totals, float* loss, int64_t N) {
  const int64_t chunks = (N + loss_chunk - 1) / loss_chunk;
  const Scratch<LossSums> partial(std::max<int64_t>(1, chunks));
  launch(info_nce_loss_kernel, grid_of(chunks), 256, 0, weights, positive_scores.data<float>(), row_log_sums.data<float>(),
         column_log_sums.data<float>(), partial.data(), N);
  launch(info_nce_mean_kernel, 1, 256, 0, partial.data(), chunks, totals, loss);
}

void info_nce_forward(const Tensor& q, const Tensor& k, const Tensor& positives, const Tensor& negatives, const Tensor& row_groups,
                      const Tensor& col_groups, const Tensor& weights, const Tensor& log_q, Tensor& loss, Tensor& positive_scores,
                      Tensor& row_log_sums, Tensor& column_log_sums, double scale, bool /*normalized*/) {
  const int64_t N = q.shape[0], M = k.shape[0], D = q.shape[1];
  const Scratch<int32_t> positive(std::max<int64_t>(1, N));
  find_positives(positives, N, M, positive.data());
  float* scores = positive_scores.data<float>();
  if (negatives) {
    info_nce_sampled_forward(q, k, positive.data(), negatives, log_q.data<float>(), scores, row_log_sums.data<float>(), scale);
  } else {
    const bool tensor_cores = q.dtype == DType::bfloat16 && info_nce_mma_fits(D, q.data<void>(), k.data<void>());
    const Pieces pieces(N, M, column_log_sums.defined(), tensor_cores ? mma_own : score_tile);
    const Scratch<LogSum> row_parts(std::max<int64_t>(1, pieces.column_chunks * N));
    const Scratch<LogSum> column_parts(column_log_sums ? std::max<int64_t>(1, pieces.row_chunks * M) : 1);
    LogSum* of_columns = column_log_sums ? column_parts.data() : nullptr;
    const int kinds = row_groups && N > 0 ? int(row_groups.size() / N) : 0;
    dispatch_float(q.dtype, [&]<class T>() {
      const T *pq = q.data<T>(), *pk = k.data<T>();
      const Side<T> rows{pq, int(N), row_groups.data<int32_t>(), positive.data(), nullptr, nullptr, nullptr, nullptr};
      const Side<T> columns{pk, int(M), col_groups.data<int32_t>(), nullptr, log_q.data<float>(), nullptr, nullptr, nullptr};
      if constexpr (std::is_same_v<T, bfloat16>)
        if (tensor_cores)
          return info_nce_mma_forward(rows, columns, int(D), pieces, kinds, float(scale), scores, row_parts.data(), of_columns);
      dispatch_columns<T>(
          [&]<int V>() {
            const auto kernel = of_columns ? info_nce_forward_kernel<V, true, T> : info_nce_forward_kernel<V, false, T>;
            launch(kernel, grid_of(pieces.count()), tile_threads, 0, rows, columns, int(D), pieces, kinds, float(scale), scores,
                   row_parts.data(), of_columns);
          },
          D, pq, pk);
    });
    launch(info_nce_merge_kernel, element_grid(N), 256, 0, row_parts.data(), pieces.column_chunks, row_log_sums.data<float>(), N);
    if (column_log_sums)
      launch(info_nce_merge_kernel, element_grid(M), 256, 0, column_parts.data(), pieces.row_chunks, column_log_sums.data<float>(), M);
  }
  const Scratch<LossSums> totals(1);
  loss_totals(weights.data<float>(), positive_scores, row_log_sums, column_log_sums, totals.data(), loss.data<float>(), N);
}

// The gradient of one side.
template <class T>
static void gradient(const Side<T>& own, const Side<T>& other, int64_t D, int kinds, double scale, Tensor& out) {
  const bool tensor_cores = std::is_same_v<T, bfloat16> && info_nce_mma_fits(D, own.x, other.x);
  const int64_t groups = tensor_cores ? 1 : (D + group - 1) / group, own_tiles = tiles_of(own.count, tensor_cores ? mma_own : score_tile);
  const int64_t other_tiles = tiles_of(other.count, score_tile), wanted = splits_of(own_tiles * groups, other_tiles);
  const int64_t split_tiles = std::max<int64_t>(1, (other_tiles + wanted - 1) / wanted);
  const int64_t splits = std::max<int64_t>(1, (other_tiles + split_tiles - 1) / split_tiles), n = own.count * D;
  const Scratch<float> partial(std::max<int64_t>(1, splits * n));
  const auto on_cuda_cores = [&]<int V>() {
    const auto kernel = D <= 64    ? info_nce_backward_kernel<V, 1, T>
                        : D <= 128 ? info_nce_backward_kernel<V, 2, T>
                                   : info_nce_backward_kernel<V, group / 64, T>;
    launch(kernel, grid_of(own_tiles * groups * splits), tile_threads, 0, own, other, int(D), int(groups), int(splits), int(split_tiles),
           kinds, float(scale), partial.data());
  };
  if constexpr (std::is_same_v<T, bfloat16>)
    if (tensor_cores) info_nce_mma_backward(own, other, int(D), int(splits), int(split_tiles), kinds, float(scale), partial.data());
  if (!tensor_cores) dispatch_columns<T>(on_cuda_cores, D, own.x, other.x);
  launch(info_nce_reduce_kernel<T>, element_grid(n), 256, 0, partial.data(), splits, out.data<T>(), n, float(scale));
}

void info_nce_backward(const Tensor& q, const Tensor& k, const Tensor& positives, const Tensor& negatives, const Tensor& row_groups,
                       const Tensor& col_groups, const Tensor& weights, const Tensor& log_q, const Tensor& positive_scores,
                       const Tensor& row_log_sums, const Tensor& column_log_sums, const Tensor& dloss, Tensor& dq, Tensor& dk,
                       double scale) {
  const int64_t N = q.shape[0], M = k.shape[0], D = q.shape[1], room = std::max<int64_t>(1, N);
  const Scratch<int32_t> positive(room);
  find_positives(positives, N, M, positive.data());
  const Scratch<LossSums> totals(1);
  loss_totals(weights.data<float>(), positive_scores, row_log_sums, column_log_sums, totals.data(), nullptr, N);
  const Scratch<float> factor(room), row_sums(room), column_sums(room), at_positive(room);
  launch(info_nce_terms_kernel, element_grid(N), 256, 0, weights.data<float>(), positive_scores.data<float>(), row_log_sums.data<float>(),
         column_log_sums.data<float>(), totals.data(), dloss.data<float>(), factor.data(), row_sums.data(), column_sums.data(),
         at_positive.data(), N);
  if (negatives)
    return info_nce_sampled_backward(q, k, positive.data(), negatives, log_q.data<float>(), factor.data(), row_sums.data(),
                                     at_positive.data(), dq, dk, scale);
  const int kinds = row_groups && N > 0 ? int(row_groups.size() / N) : 0;
  dispatch_float(q.dtype, [&]<class T>() {
    const Side<T> rows{q.data<T>(),   int(N),          row_groups.data<int32_t>(), positive.data(), nullptr,
                       factor.data(), row_sums.data(), at_positive.data()};
    const Side<T> columns{k.data<T>(),
                          int(M),
                          col_groups.data<int32_t>(),
                          nullptr,
                          log_q.data<float>(),
                          factor.data(),
                          column_log_sums ? column_sums.data() : nullptr,
                          nullptr};
    if (dq) gradient(rows, columns, D, kinds, scale, dq);
    if (dk) gradient(columns, rows, D, kinds, scale, dk);
  });
}

}  // namespace galago::cuda
