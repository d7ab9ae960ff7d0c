/*
Rows of a dense tensor by index (copy_rows.cuh); backward adds rows that were read more than once, in order of position (row_runs.cuh).
*/
#include "copy_rows.cuh"
#include "row_runs.cuh"

namespace galago::cuda {

namespace {

template <class T>
struct Part {
  const T* value;
  float weight;
};

template <class T>
struct RowOfDout {
  const T* dout;
  int64_t D;
  __device__ Part<T> operator()(int64_t position) const { return {dout + position * D, 1.0f}; }
};

template <class T>
struct RowOfDx {
  T* dx;
  int64_t D;
  __device__ T* operator()(int64_t, uint32_t row) const { return dx + int64_t(row) * D; }
};

}  // namespace

// An index outside [0, N) is padding.
static __global__ void gathered_rows_kernel(const int32_t* index, uint32_t* rows, int32_t* positions, int64_t n, int64_t N) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    rows[i] = index[i] >= 0 && index[i] < N ? uint32_t(index[i]) : uint32_t(N);
    positions[i] = int32_t(i);
  }
}

// ---- launchers

static int64_t row_size(const Tensor& x) {
  int64_t size = 1;
  for (int d = 1; d < x.rank; d++) size *= x.shape[d];
  return size;
}

void gather_rows_forward(const Tensor& x, const Tensor& index, Tensor& out) {
  copy_rows(x.data<void>(), x.shape[0], row_size(x) * int64_t(size_of(x.dtype)), index, out.data<void>(),
            index_report("gatherRows", "index", x.shape[0]));
}

void gather_rows_backward(const Tensor& dout, const Tensor& index, Tensor& dx) {
  const int64_t n = index.size(), N = dx.shape[0], D = row_size(dx);
  fill(dx, 0);
  if (n == 0 || dx.size() == 0) return;
  RowRuns runs(n, N);
  launch(gathered_rows_kernel, grid_of((n + 255) / 256), 256, 0, index.data<int32_t>(), runs.rows(), runs.positions(), n, N);
  const Scratch<int32_t> count(1);
  dispatch_float(dx.dtype, [&]<class T>() {
    const T* from = dout.data<T>();
    T* to = dx.data<T>();
    runs.sum<T>(D, packed<T>(D, from, to), RowOfDout<T>{from, D}, RowOfDx<T>{to, D}, count.data());
  });
}

}  // namespace galago::cuda
