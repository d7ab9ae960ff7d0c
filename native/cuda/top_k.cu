// The k largest entries of each row, largest first: the row ranked whole (ranking.cuh), its first k written.
#include "ranking.cuh"

namespace galago::cuda {

namespace {

template <class T>
struct WriteLargest {
  const T* x;
  T* values;
  int32_t* indices;
  int64_t L, k;
  __device__ void operator()(int64_t b, int64_t i, int32_t column) const {
    values[b * k + i] = x[b * L + column];
    indices[b * k + i] = column;
  }
};

}  // namespace

// ---- launcher

void top_k(const Tensor& x, Tensor& values, Tensor& indices) {
  const int64_t B = x.shape[0], L = x.shape[1], k = values.shape[1];
  if (k == 0) return;
  dispatch_float(x.dtype, [&]<class T>() {
    rank_rows(x.data<T>(), nullptr, B, L, k, WriteLargest<T>{x.data<T>(), values.data<T>(), indices.data<int32_t>(), L, k}, IndexReport{});
  });
}

}  // namespace galago::cuda
