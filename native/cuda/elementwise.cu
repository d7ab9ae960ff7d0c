/*
add_same, affine, binary with broadcasting, unary functions and their derivatives; computed in float32.

Broadcasting: dimensions of out that both inputs step through alike are merged first, so nearly always one or two are left. out is then
rows of its last merged dimension, along which an input either moves by 1 or stands still; a thread owns up to 16 bytes of a row and finds
where the inputs' rows begin from the row's number.
*/
#include "map.cuh"

namespace galago::cuda {

namespace {

template <Binary KIND>
__device__ __forceinline__ float combine(float a, float b) {
  if constexpr (KIND == Binary::add) return a + b;
  if constexpr (KIND == Binary::sub) return a - b;
  if constexpr (KIND == Binary::mul) return a * b;
  if constexpr (KIND == Binary::div) return a / b;
}

template <Binary KIND>
struct Combine {
  __device__ float operator()(const float (&x)[2]) const { return combine<KIND>(x[0], x[1]); }
};

struct Affine {
  float scale, shift;
  __device__ float operator()(const float (&x)[1]) const { return scale * x[0] + shift; }
};

template <Unary KIND>
struct Apply {
  __device__ float operator()(const float (&values)[1]) const {
    const float x = values[0];
    if constexpr (KIND == Unary::exp) return expf(x);
    if constexpr (KIND == Unary::log) return logf(x);
    if constexpr (KIND == Unary::sqrt) return sqrtf(x);
    if constexpr (KIND == Unary::square) return x * x;
    if constexpr (KIND == Unary::abs) return x < 0 ? -x : x;
    if constexpr (KIND == Unary::reciprocal) return 1.0f / x;
  }
};

// (x, out, dout)
template <Unary KIND>
struct ApplyBackward {
  __device__ float operator()(const float (&values)[3]) const {
    const float x = values[0], y = values[1], dout = values[2];
    if constexpr (KIND == Unary::exp) return dout * y;
    if constexpr (KIND == Unary::log) return dout * (1.0f / x);
    if constexpr (KIND == Unary::sqrt) return dout * (0.5f / y);
    if constexpr (KIND == Unary::square) return dout * (2.0f * x);
    if constexpr (KIND == Unary::abs) return dout * (x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f);
    if constexpr (KIND == Unary::reciprocal) return dout * (-y * y);
  }
};

// The merged dimensions of out, the last one first, and how far one step along each moves a and b.
struct Broadcast {
  int rank = 0;
  int64_t size[max_rank] = {};
  int64_t a[max_rank] = {}, b[max_rank] = {};
};

}  // namespace

template <class T>
__device__ __forceinline__ Pack<T> repeated(T x) {
  Pack<T> pack;
#pragma unroll
  for (int k = 0; k < pack_width<T>; k++) pack.v[k] = x;
  return pack;
}

template <class T, Binary KIND, int WIDTH, class Index>
__global__ void __launch_bounds__(256) broadcast_kernel(const T* a, const T* b, T* out, int64_t n, const Broadcast shape) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  const bool a_moves = shape.a[0] != 0, b_moves = shape.b[0] != 0;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n / WIDTH; i += stride) {
    const Index at = Index(i) * WIDTH;
    Index row = at / Index(shape.size[0]);
    const Index column = at - row * Index(shape.size[0]);
    int64_t from_a = a_moves ? column : 0, from_b = b_moves ? column : 0;
    for (int d = 1; d < shape.rank; d++) {
      const Index rest = row / Index(shape.size[d]), coordinate = row - rest * Index(shape.size[d]);
      from_a += coordinate * shape.a[d];
      from_b += coordinate * shape.b[d];
      row = rest;
    }
    if constexpr (WIDTH == 1) {
      out[at] = from_float<T>(combine<KIND>(to_float(a[from_a]), to_float(b[from_b])));
    } else {
      const Pack<T> left = a_moves ? load_pack(a + from_a) : repeated(a[from_a]);
      const Pack<T> right = b_moves ? load_pack(b + from_b) : repeated(b[from_b]);
      Pack<T> result;
#pragma unroll
      for (int k = 0; k < WIDTH; k++) result.v[k] = from_float<T>(combine<KIND>(to_float(left.v[k]), to_float(right.v[k])));
      store_pack(out + at, result);
    }
  }
}

// ---- launchers

template <class F>
static void dispatch(Binary kind, F&& body) {
  switch (kind) {
    case Binary::add: return body.template operator()<Binary::add>();
    case Binary::sub: return body.template operator()<Binary::sub>();
    case Binary::mul: return body.template operator()<Binary::mul>();
    case Binary::div: return body.template operator()<Binary::div>();
  }
}

template <class F>
static void dispatch(Unary kind, F&& body) {
  switch (kind) {
    case Unary::exp: return body.template operator()<Unary::exp>();
    case Unary::log: return body.template operator()<Unary::log>();
    case Unary::sqrt: return body.template operator()<Unary::sqrt>();
    case Unary::square: return body.template operator()<Unary::square>();
    case Unary::abs: return body.template operator()<Unary::abs>();
    case Unary::reciprocal: return body.template operator()<Unary::reciprocal>();
  }
}

// Elements to step over in x, aligned to the right of out, for each dimension of out: 0 where x repeats.
static void strides_of(const Tensor& x, const Tensor& out, int64_t (&strides)[max_rank]) {
  const int shift = out.rank - x.rank;
  int64_t step = 1;
  for (int d = out.rank - 1; d >= 0; d--) {
    const int64_t size = d < shift ? 1 : x.shape[d - shift];
    CHECK(size == 1 || size == out.shape[d], "binary: shapes do not broadcast");
    strides[d] = size == 1 ? 0 : step;
    step *= size;
  }
}

static Broadcast merged(const Tensor& a, const Tensor& b, const Tensor& out) {
  int64_t a_strides[max_rank] = {}, b_strides[max_rank] = {};
  strides_of(a, out, a_strides);
  strides_of(b, out, b_strides);
  Broadcast shape;
  for (int d = out.rank - 1; d >= 0; d--) {
    if (out.shape[d] == 1) continue;
    const int last = shape.rank - 1;
    if (last >= 0 && a_strides[d] == shape.a[last] * shape.size[last] && b_strides[d] == shape.b[last] * shape.size[last]) {
      shape.size[last] *= out.shape[d];
      continue;
    }
    shape.size[shape.rank] = out.shape[d];
    shape.a[shape.rank] = a_strides[d];
    shape.b[shape.rank] = b_strides[d];
    shape.rank++;
  }
  if (shape.rank == 0) shape.rank = 1, shape.size[0] = 1;
  return shape;
}

void add_same(const Tensor& a, const Tensor& b, Tensor& out) {
  CHECK(a.size() == b.size() && a.size() == out.size(), "add_same: sizes differ");
  dispatch_float(out.dtype, [&]<class T>() {
    map(Combine<Binary::add>(), MapInputs<2, T>{a.data<T>(), b.data<T>()}, out.data<T>(), out.size());
  });
}

void affine(const Tensor& x, Tensor& out, double scale, double shift) {
  dispatch_float(x.dtype, [&]<class T>() {
    map(Affine{float(scale), float(shift)}, MapInputs<1, T>{x.data<T>()}, out.data<T>(), x.size());
  });
}

void binary(const Tensor& a, const Tensor& b, Tensor& out, Binary kind) {
  const int64_t n = out.size();
  if (n == 0) return;
  const Broadcast shape = merged(a, b, out);
  dispatch_float(out.dtype, [&]<class T>() {
    dispatch(kind, [&]<Binary KIND>() {
      const T *pa = a.data<T>(), *pb = b.data<T>();
      T* po = out.data<T>();
      if (shape.rank == 1 && shape.a[0] == 1 && shape.b[0] == 1) return map(Combine<KIND>(), MapInputs<2, T>{pa, pb}, po, n);
      const auto run = [&]<int WIDTH, class Index>() {
        const int64_t tile = 256 * WIDTH;
        launch(broadcast_kernel<T, KIND, WIDTH, Index>, grid_of((n + tile - 1) / tile), 256, 0, pa, pb, po, n, shape);
      };
      constexpr int width = pack_width<T>;
      const bool packs = packed<T>(shape.size[0], pa, pb, po), small = n <= int64_t(UINT32_MAX);
      if (packs && small)
        run.template operator()<width, uint32_t>();
      else if (packs)
        run.template operator()<width, uint64_t>();
      else if (small)
        run.template operator()<1, uint32_t>();
      else
        run.template operator()<1, uint64_t>();
    });
  });
}

void unary_forward(const Tensor& x, Tensor& out, Unary kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch(kind, [&]<Unary KIND>() { map(Apply<KIND>(), MapInputs<1, T>{x.data<T>()}, out.data<T>(), x.size()); });
  });
}

void unary_backward(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& dx, Unary kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch(kind, [&]<Unary KIND>() {
      map(ApplyBackward<KIND>(), MapInputs<3, T>{x.data<T>(), out.data<T>(), dout.data<T>()}, dx.data<T>(), x.size());
    });
  });
}

}  // namespace galago::cuda
