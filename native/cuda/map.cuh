/*
out[i] = f(in_0[i], .., in_(N-1)[i]) for a functor f, in float32, 16 bytes at a time where size and addresses allow.
map: f(x). map_columns: f(x, column), where the arrays are matrices and f has parameters for each column.
*/
#pragma once
#include "vec.cuh"

namespace galago::cuda {

template <int N, class T>
struct MapInputs {
  const T* from[N];
};

template <int N, class T, class F>
__global__ void __launch_bounds__(256) map_kernel(F f, MapInputs<N, T> in, T* out, int64_t n, bool whole_packs) {
  constexpr int width = pack_width<T>;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t packs = whole_packs ? n / width : 0;
  for (int64_t i = first; i < packs; i += stride) {
    Pack<T> x[N], result;
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = load_pack(in.from[k] + i * width);
#pragma unroll
    for (int j = 0; j < width; j++) {
      float values[N];
#pragma unroll
      for (int k = 0; k < N; k++) values[k] = to_float(x[k].v[j]);
      result.v[j] = from_float<T>(f(values));
    }
    store_pack(out + i * width, result);
  }
  for (int64_t i = packs * width + first; i < n; i += stride) {
    float values[N];
#pragma unroll
    for (int k = 0; k < N; k++) values[k] = to_float(in.from[k][i]);
    out[i] = from_float<T>(f(values));
  }
}

template <int N, class T, class F>
void map(const F& f, const MapInputs<N, T>& in, T* out, int64_t n) {
  bool whole_packs = packed<T>(0, out);
  for (int k = 0; k < N; k++) whole_packs = whole_packs && packed<T>(0, in.from[k]);
  const int64_t tile = 256 * pack_width<T>;
  launch(map_kernel<N, T, F>, grid_of((n + tile - 1) / tile), 256, 0, f, in, out, n, whole_packs);
}

// WIDTH is 1 or a pack; a pack lies in one row. Index is uint32_t where that is enough: a 64-bit remainder costs as much as the rest.
template <int N, int WIDTH, class Index, class T, class F>
__global__ void __launch_bounds__(256) map_columns_kernel(F f, MapInputs<N, T> in, T* out, int64_t n, int64_t columns) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n / WIDTH; i += stride) {
    const int64_t at = i * WIDTH;
    const int64_t column = Index(at) % Index(columns);
    T x[N][WIDTH], result[WIDTH];
#pragma unroll
    for (int k = 0; k < N; k++) {
      if constexpr (WIDTH == 1) {
        x[k][0] = in.from[k][at];
      } else {
        const Pack<T> pack = load_pack(in.from[k] + at);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) x[k][j] = pack.v[j];
      }
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
      float values[N];
#pragma unroll
      for (int k = 0; k < N; k++) values[k] = to_float(x[k][j]);
      result[j] = from_float<T>(f(values, column + j));
    }
    if constexpr (WIDTH == 1) {
      out[at] = result[0];
    } else {
      Pack<T> pack;
#pragma unroll
      for (int j = 0; j < WIDTH; j++) pack.v[j] = result[j];
      store_pack(out + at, pack);
    }
  }
}

template <int N, class T, class F>
void map_columns(const F& f, const MapInputs<N, T>& in, T* out, int64_t rows, int64_t columns) {
  const int64_t n = rows * columns;
  bool whole_packs = packed<T>(columns, out);
  for (int k = 0; k < N; k++) whole_packs = whole_packs && packed<T>(columns, in.from[k]);
  const auto run = [&]<int WIDTH, class Index>() {
    const int64_t tile = 256 * WIDTH;
    launch(map_columns_kernel<N, WIDTH, Index, T, F>, grid_of((n + tile - 1) / tile), 256, 0, f, in, out, n, columns);
  };
  const bool small = n <= int64_t(UINT32_MAX);
  if (whole_packs && small)
    run.template operator()<pack_width<T>, uint32_t>();
  else if (whole_packs)
    run.template operator()<pack_width<T>, uint64_t>();
  else if (small)
    run.template operator()<1, uint32_t>();
  else
    run.template operator()<1, uint64_t>();
}

}  // namespace galago::cuda
