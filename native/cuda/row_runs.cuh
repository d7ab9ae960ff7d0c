/*
Sums of rows that share a destination: to[row] = sum over the lookups of that row of weight * value[0 .. D), in order of position, so that
duplicates change no bit. For the gradients of gather_rows and of embedding tables.

  1. Lookups are sorted by (row, position), stably; padding carries the row `num_rows` and sorts to the end.
  2. Equal rows form runs; heads[r] is where run r begins. Their count stays on the device: launches cover the number of lookups and
     return early.
  3. Runs are cut where the sorted position is a multiple of 256, so one popular row occupies many warps: `width` neighbouring threads own
     a part and sum it in order, in registers. A part that is a whole run is written; otherwise it leaves a float32 partial sum. A block of
     256 positions holds at most two of those: slot 2 b for the run that comes in from block b - 1, slot 2 b + 1 for the one that goes on.
  4. The partial sums of a run are added in order.
*/
#pragma once
#include "row_lanes.cuh"
#include "sort.cuh"

namespace galago::cuda {

constexpr int64_t run_chunk = 256;

struct SortedLookups {
  const uint32_t* row;      // sorted
  const int32_t* position;  // of the same entries
  const int32_t* heads;     // (count + 1), the last one is the number of lookups that are no padding
  const int32_t* count;     // runs
  int64_t n;
  uint32_t num_rows;
};

static __global__ void run_heads_kernel(const uint32_t* row, const int32_t* run, int32_t* heads, int32_t* count, int64_t n,
                                        uint32_t num_rows) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    if (i == 0 || run[i] != run[i - 1]) heads[run[i]] = int32_t(i);
    if (i + 1 < n) continue;
    const bool padding = row[i] == num_rows;
    *count = run[i] + !padding;
    if (!padding) heads[run[i] + 1] = int32_t(n);
  }
}

// Sums entries [begin, end) into `store(d, sums)` for every V columns from d on. term(position): {const T* value, float weight}.
template <int V, class Term, class Store>
__device__ __forceinline__ void sum_entries(const SortedLookups& sorted, int64_t begin, int64_t end, int64_t D, int width, const Term& term,
                                            const Store& store) {
  for (int64_t d = int64_t(threadIdx.x) % width * V; d < D; d += width * V) {
    float sums[V] = {};
#pragma unroll 4
    for (int64_t i = begin; i < end; i++) {
      const auto part = term(sorted.position[i]);
      float x[V];
      load_columns(part.value + d, x);
#pragma unroll
      for (int k = 0; k < V; k++) sums[k] += part.weight * x[k];
    }
    store(d, sums);
  }
}

// Items 0 .. n - 1: the first part of each run. Items from n on: what comes into block 1, 2, .. from the block before it.
template <int V, class T, class Term, class To>
__global__ void __launch_bounds__(row_block, 4)
    run_parts_kernel(const SortedLookups sorted, int64_t D, int width, Term term, To to, float* partials) {
  const int64_t teams = row_block / width, blocks = (sorted.n + run_chunk - 1) / run_chunk, runs = *sorted.count;
  for (int64_t item = int64_t(blockIdx.x) * teams + threadIdx.x / width; item < sorted.n + blocks - 1; item += int64_t(gridDim.x) * teams) {
    if (item < sorted.n) {
      if (item >= runs) continue;
      const int64_t begin = sorted.heads[item], stop = sorted.heads[item + 1], block = begin / run_chunk;
      const bool whole = stop <= (block + 1) * run_chunk;
      T* row = to(item, sorted.row[begin]);
      float* slot = partials + (2 * block + 1) * D;
      sum_entries<V>(sorted, begin, whole ? stop : (block + 1) * run_chunk, D, width, term, [&](int64_t d, float(&sums)[V]) {
        if (whole)
          store_columns(row + d, sums);
        else
          store_columns(slot + d, sums);
      });
    } else {
      const int64_t block = item - sorted.n + 1, begin = block * run_chunk;
      const uint32_t row = sorted.row[begin];
      if (row == sorted.num_rows || row != sorted.row[begin - 1]) continue;
      int64_t low = begin + 1, high = begin + run_chunk < sorted.n ? begin + run_chunk : sorted.n;  // the end of the part: by bisection
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sorted.row[middle] == row)
          low = middle + 1;
        else
          high = middle;
      }
      float* slot = partials + 2 * block * D;
      sum_entries<V>(sorted, begin, low, D, width, term, [&](int64_t d, float(&sums)[V]) { store_columns(slot + d, sums); });
    }
  }
}

template <int V, class T, class To>
__global__ void __launch_bounds__(row_block, 4)
    join_parts_kernel(const SortedLookups sorted, int64_t D, int width, To to, const float* partials) {
  const int64_t teams = row_block / width, runs = *sorted.count;
  for (int64_t run = int64_t(blockIdx.x) * teams + threadIdx.x / width; run < runs; run += int64_t(gridDim.x) * teams) {
    const int64_t begin = sorted.heads[run], first = begin / run_chunk, last = (sorted.heads[run + 1] - 1) / run_chunk;
    if (first == last) continue;
    T* row = to(run, sorted.row[begin]);
    for (int64_t d = int64_t(threadIdx.x) % width * V; d < D; d += width * V) {
      float sums[V], x[V];
      load_columns(partials + (2 * first + 1) * D + d, sums);
#pragma unroll 4
      for (int64_t block = first + 1; block <= last; block++) {
        load_columns(partials + 2 * block * D + d, x);
#pragma unroll
        for (int k = 0; k < V; k++) sums[k] += x[k];
      }
      store_columns(row + d, sums);
    }
  }
}

// ---- launchers

// The caller's kernel fills rows() and positions(), then sum() does the rest.
class RowRuns {
 public:
  RowRuns(int64_t n, int64_t num_rows) : n_(n), num_rows_(num_rows), order_(n), run_(n), heads_(n + 1) {
    CHECK(num_rows < int64_t(UINT32_MAX), "row runs: too many rows");
  }
  uint32_t* rows() const { return order_.keys(); }
  int32_t* positions() const { return order_.positions(); }

  // Writes the number of runs, and the sum of run r to `to(r, row of r)`, a pointer to D elements; other rows are not touched.
  // `whole_packs`: rows of `to` and of the terms' values can be read in packs. n > 0.
  template <class T, class Term, class To>
  void sum(int64_t D, bool whole_packs, const Term& term, const To& to, int32_t* count) {
    order_.sort(bits_for(uint64_t(num_rows_) + 1));
    number_runs(order_.keys(), run_.data(), n_);
    launch(run_heads_kernel, grid_of((n_ + 255) / 256), 256, 0, order_.keys(), run_.data(), heads_.data(), count, n_, uint32_t(num_rows_));
    sorted_ = {order_.keys(), order_.positions(), heads_.data(), count, n_, uint32_t(num_rows_)};
    if (whole_packs)
      add<pack_width<T>, T>(D, term, to);
    else
      add<1, T>(D, term, to);
  }

  // Valid after sum(), while this object lives.
  const SortedLookups& sorted() const { return sorted_; }

 private:
  template <int V, class T, class Term, class To>
  void add(int64_t D, const Term& term, const To& to) const {
    const int width = lanes_for(D, V);
    const int64_t teams = row_block / width, blocks = (n_ + run_chunk - 1) / run_chunk;
    const Scratch<float> partials(blocks > 1 ? 2 * blocks * D : 0);
    launch(run_parts_kernel<V, T, Term, To>, grid_of((n_ + blocks - 1 + teams - 1) / teams), row_block, 0, sorted_, D, width, term, to,
           partials.data());
    if (blocks > 1)
      launch(join_parts_kernel<V, T, To>, grid_of((n_ + teams - 1) / teams), row_block, 0, sorted_, D, width, to, partials.data());
  }

  int64_t n_, num_rows_;
  RadixSort<uint32_t> order_;
  Scratch<int32_t> run_, heads_;
  SortedLookups sorted_{};
};

}  // namespace galago::cuda
