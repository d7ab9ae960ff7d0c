/*
Rectifier with a slope per column below zero: out = x where x > 0, else alpha x. dalpha: sums over rows as in column_sums.cuh.
*/
#include "column_sums.cuh"
#include "map.cuh"

namespace galago::cuda {

namespace {

template <class T>
struct Prelu {  // (x), or (dout, x) with N = 2: both are multiplied by the slope at x
  const T* alpha;
  template <int N>
  __device__ float operator()(const float (&values)[N], int64_t column) const {
    return values[0] * (values[N - 1] > 0 ? 1.0f : to_float(alpha[column]));
  }
};

template <class T>
struct SlopeTerm {
  const T *x, *dout;
  int64_t columns;
  __device__ void operator()(int64_t row, int64_t column, float (&sums)[1]) const {
    const int64_t i = row * columns + column;
    const float value = to_float(x[i]);
    sums[0] += value > 0 ? 0.0f : to_float(dout[i]) * value;
  }
};

}  // namespace

// ---- launchers

void prelu_forward(const Tensor& x, const Tensor& alpha, Tensor& out) {
  dispatch_float(x.dtype, [&]<class T>() {
    map_columns(Prelu<T>{alpha.data<T>()}, MapInputs<1, T>{x.data<T>()}, out.data<T>(), x.rows(), x.columns());
  });
}

void prelu_backward(const Tensor& x, const Tensor& alpha, const Tensor& dout, Tensor& dx, Tensor& dalpha) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *pd = dout.data<T>();
    if (dx) map_columns(Prelu<T>{alpha.data<T>()}, MapInputs<2, T>{pd, px}, dx.data<T>(), x.rows(), x.columns());
    if (dalpha) sum_columns(SlopeTerm<T>{px, pd, x.columns()}, 1, x.rows(), x.columns(), ColumnOutputs<1, T>{dalpha.data<T>()});
  });
}

}  // namespace galago::cuda
