/*
transpose: dimension d of out is dimension axes[d] of x.

Dimensions that stay neighbours are merged first. Where the last one stays last, runs of it are copied, in words of 16 bytes where they
fit. Otherwise the last dimension of x and the last of out span a plane: a block carries 32 x 32 tiles of it through shared memory
(4.2 KB; a column of padding keeps banks apart), so that reads and writes are both contiguous.
*/
#include "vec.cuh"

namespace galago::cuda {

namespace {

// Merged dimensions of out, the last one first: size, and elements to step over in x and out.
struct Permutation {
  int rank = 0;
  int64_t size[max_rank] = {};
  int64_t from[max_rank] = {}, to[max_rank] = {};
};

struct Place {
  int64_t from, to;
};

// Where index i over all dimensions but `first` and `second` lies in x and in out. Index is uint32_t where that is enough: 64-bit
// divisions would cost more than the copy.
template <class Index>
__device__ __forceinline__ Place place_of(const Permutation& shape, Index i, int first, int second) {
  Place place{0, 0};
  for (int d = 0; d < shape.rank; d++) {
    if (d == first || d == second) continue;
    const Index rest = i / Index(shape.size[d]), coordinate = i - rest * Index(shape.size[d]);
    place.from += coordinate * shape.from[d];
    place.to += coordinate * shape.to[d];
    i = rest;
  }
  return place;
}

constexpr int tile_side = 32, tile_lines = 8;

}  // namespace

// The last dimension stays last: words of out in order, each `width` elements, `words` of them in a run.
template <class Word, class Index>
__global__ void __launch_bounds__(256)
    permute_runs_kernel(const Word* x, Word* out, int64_t n, int64_t words, int width, const Permutation shape) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const Index run = Index(i) / Index(words);
    out[i] = x[place_of<Index>(shape, run, 0, 0).from / width + (i - run * words)];
  }
}

// Dimension 0 is the last of out, dimension `last_of_x` that of x.
template <class T>
__global__ void __launch_bounds__(tile_side* tile_lines)
    permute_tiles_kernel(const T* x, T* out, int64_t planes, int last_of_x, const Permutation shape) {
  SHARED(T[tile_side][tile_side + 1], tile);
  const int64_t R = shape.size[0], C = shape.size[last_of_x];
  const int64_t r_stride = shape.from[0], c_stride = shape.to[last_of_x];  // along R in x, along C in out
  const int64_t r_tiles = (R + tile_side - 1) / tile_side, c_tiles = (C + tile_side - 1) / tile_side;
  for (int64_t piece = blockIdx.x; piece < planes * r_tiles * c_tiles; piece += gridDim.x) {
    const Place place = place_of<int64_t>(shape, piece / (r_tiles * c_tiles), 0, last_of_x);
    const int64_t r0 = piece / c_tiles % r_tiles * tile_side, c0 = piece % c_tiles * tile_side;
#pragma unroll
    for (int line = 0; line < tile_side; line += tile_lines) {
      const int64_t r = r0 + line + threadIdx.y, c = c0 + threadIdx.x;
      if (r < R && c < C) tile[line + threadIdx.y][threadIdx.x] = x[place.from + r * r_stride + c];
    }
    __syncthreads();
#pragma unroll
    for (int line = 0; line < tile_side; line += tile_lines) {
      const int64_t r = r0 + threadIdx.x, c = c0 + line + threadIdx.y;
      if (r < R && c < C) out[place.to + c * c_stride + r] = tile[threadIdx.x][line + threadIdx.y];
    }
    __syncthreads();
  }
}

// ---- launchers

static Permutation merged(const Tensor& x, const Tensor& out, const std::vector<int64_t>& axes) {
  int64_t strides[max_rank] = {}, step = 1;
  for (int d = x.rank - 1; d >= 0; d--) {
    strides[d] = step;
    step *= x.shape[d];
  }
  Permutation shape;
  step = 1;
  for (int d = out.rank - 1; d >= 0; d--) {
    const int64_t size = out.shape[d], from = strides[axes[size_t(d)]], last = shape.rank - 1;
    if (size == 1) continue;
    if (last >= 0 && from == shape.from[last] * shape.size[last]) {
      shape.size[last] *= size;
    } else {
      shape.size[shape.rank] = size;
      shape.from[shape.rank] = from;
      shape.to[shape.rank] = step;
      shape.rank++;
    }
    step *= size;
  }
  if (shape.rank == 0) shape.rank = 1, shape.size[0] = shape.from[0] = shape.to[0] = 1;
  return shape;
}

void transpose(const Tensor& x, Tensor& out, const std::vector<int64_t>& axes) {
  CHECK(int(axes.size()) == x.rank && x.rank > 0, "transpose: one axis per dimension");
  const int64_t n = x.size();
  if (n == 0) return;
  const Permutation shape = merged(x, out, axes);
  dispatch_float(x.dtype, [&]<class T>() {
    const T* from = x.data<T>();
    T* to = out.data<T>();
    int last_of_x = 0;
    while (shape.from[last_of_x] != 1) last_of_x++;
    if (last_of_x > 0) {
      const int64_t r_tiles = (shape.size[0] + tile_side - 1) / tile_side, c_tiles = (shape.size[last_of_x] + tile_side - 1) / tile_side;
      const int64_t planes = n / (shape.size[0] * shape.size[last_of_x]);
      launch(permute_tiles_kernel<T>, grid_of(planes * r_tiles * c_tiles), dim3(tile_side, tile_lines), 0, from, to, planes, last_of_x,
             shape);
    } else {
      const auto run = [&]<class Word>(int width) {
        const auto start = [&](auto* kernel) {
          launch(kernel, grid_of((n / width + 255) / 256), 256, 0, reinterpret_cast<const Word*>(from), reinterpret_cast<Word*>(to),
                 n / width, shape.size[0] / width, width, shape);
        };
        n <= int64_t(UINT32_MAX) ? start(permute_runs_kernel<Word, uint32_t>) : start(permute_runs_kernel<Word, uint64_t>);
      };
      if (packed<T>(shape.size[0], from, to))
        run.template operator()<Pack<T>>(pack_width<T>);
      else
        run.template operator()<T>(1);
    }
  });
}

}  // namespace galago::cuda
