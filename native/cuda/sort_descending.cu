// Each row sorted, largest first (ranking.cuh); order[b][i] is where entry i came from. Backward sends each gradient back there.
#include "ranking.cuh"

namespace galago::cuda {

namespace {

template <class T>
struct WriteSorted {
  const T* x;
  T* out;
  int32_t* order;
  int64_t L;
  __device__ void operator()(int64_t b, int64_t i, int32_t column) const {
    out[b * L + i] = column < 0 ? from_float<T>(0.0f) : x[b * L + column];
    order[b * L + i] = column;
  }
};

}  // namespace

template <class T>
__global__ void sort_descending_backward_kernel(const T* dout, const int32_t* order, T* dx, int64_t n, int64_t L) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    if (order[i] >= 0) dx[i / L * L + order[i]] = dout[i];
}

// ---- launchers

void sort_descending_forward(const Tensor& x, const Tensor& lengths, Tensor& out, Tensor& order) {
  const int64_t B = x.shape[0], L = x.shape[1];
  dispatch_float(x.dtype, [&]<class T>() {
    rank_rows(x.data<T>(), lengths.data<int32_t>(), B, L, L, WriteSorted<T>{x.data<T>(), out.data<T>(), order.data<int32_t>(), L},
              index_report("sortDescending", "lengths", L + 1));
  });
}

void sort_descending_backward(const Tensor& dout, const Tensor& order, Tensor& dx) {
  const int64_t n = dx.size();
  fill(dx, 0);
  dispatch_float(dx.dtype, [&]<class T>() {
    launch(sort_descending_backward_kernel<T>, grid_of((n + 255) / 256), 256, 0, dout.data<T>(), order.data<int32_t>(), dx.data<T>(), n,
           dx.shape[1]);
  });
}

}  // namespace galago::cuda
