/*
Patches of pictures through a dense layer, a convolution of stride p, as a product whose left side is never written: Patches is a source
of gemm.cuh that makes its values out of pixels as they are fetched, scale[channel] pixel + shift[channel].

Columns of the source are ordered (row, column, channel), as pixels lie in memory: 3 p bytes of a patch's row in one run. The weight, which
has them as (channel, row, column), is brought into that order before (backward: its gradient after), a small matrix against the pixels.
Without runs of whole 4-byte words (p not divisible by 4) pixels are read one by one. Pixels are multiplied by the tensor cores as
bfloat16, rounded after the normalisation; 4 bytes each wait in a register while the products of the current tile run.
*/
#include "column_sums.cuh"
#include "gemm.cuh"

namespace galago::cuda {

struct PatchQuads;
template <bool K_CONTIGUOUS, int TILE, int TILE_K, int THREADS>
struct PatchLoader;

// Row: a patch; column: one of its 3 p p values. Up to 2^31 patches.
struct Patches {
  const uint8_t* images;
  const float* normalization;
  int64_t rows, image_bytes;
  int columns, run, row_bytes;  // run: bytes of one row of a patch
  unsigned across, per_image;   // patches
  bool words;                   // runs consist of whole 4-byte words

  __device__ const Patches& of_matrix(int64_t) const { return *this; }
  __device__ __forceinline__ const uint8_t* corner(int64_t row) const {
    const unsigned image = unsigned(row) / per_image, patch = unsigned(row) % per_image;
    const int p = run / 3;
    return images + image * image_bytes + int64_t(patch / across * p) * row_bytes + patch % across * run;
  }

  using Quads = PatchQuads;
  template <bool K_CONTIGUOUS, int TILE, int TILE_K, int THREADS>
  using Loader = PatchLoader<K_CONTIGUOUS, TILE, TILE_K, THREADS>;
  bool fits_tensor_cores() const { return words && columns % 8 == 0; }
};

// Four pixels as bytes, from `column` of the patch at `corner` on, zeros behind the last.
__device__ __forceinline__ uint32_t load_pixels(const Patches& source, const uint8_t* corner, int column) {
  if (source.words) {
    if (column >= source.columns) return 0;
    return *reinterpret_cast<const uint32_t*>(corner + int64_t(column / source.run) * source.row_bytes + column % source.run);
  }
  uint32_t pixels = 0;
  for (int k = 0; k < 4 && column + k < source.columns; k++)
    pixels |= uint32_t(corner[int64_t((column + k) / source.run) * source.row_bytes + (column + k) % source.run]) << 8 * k;
  return pixels;
}

// Their values; `column` is that of the first. Zeros for columns outside.
__device__ __forceinline__ void normalize_pixels(const Patches& source, uint32_t pixels, int column, float (&v)[4]) {
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const int channel = (column + k) % 3;
    const float pixel = float(pixels >> 8 * k & 0xff);
    v[k] = column + k < source.columns ? source.normalization[channel] * pixel + source.normalization[3 + channel] : 0.0f;
  }
}

// The walk of a thread for the float32 kernel: see RowQuads.
struct PatchQuads {
  const Patches* source;
  const uint8_t* corner;
  int64_t row;
  int column;

  __device__ __forceinline__ void start(const Patches& from, int64_t first_row, int64_t first_column) {
    source = &from;
    row = first_row;
    column = int(first_column);
    corner = row < source->rows ? source->corner(row) : nullptr;
  }
  __device__ __forceinline__ void load(float (&v)[4]) const {
    if (corner)
      normalize_pixels(*source, load_pixels(*source, corner, column), column, v);
    else
      v[0] = v[1] = v[2] = v[3] = 0.0f;
  }
  __device__ __forceinline__ void move_columns(int n) { column += n; }
  __device__ __forceinline__ void move_rows(int n) {
    row += n;
    corner = row < source->rows ? source->corner(row) : nullptr;
  }
};

// Tiles for the tensor cores: see AsyncLoader. fetch leaves pixels in registers, place stores their values.
template <bool K_CONTIGUOUS, int TILE, int TILE_K, int THREADS>
struct PatchLoader {
  static constexpr int ROWS = K_CONTIGUOUS ? TILE : TILE_K, CHUNKS = (K_CONTIGUOUS ? TILE_K : TILE) / 8;
  static constexpr int COPIES = ROWS * CHUNKS / THREADS, ROWS_PER_COPY = THREADS / CHUNKS;
  const Patches* source;
  int64_t row;
  int column, fetched_column;
  uint32_t pixels[COPIES][2];
  bool inside[COPIES];

  __device__ __forceinline__ void start(const Patches& from, int tile, int64_t step) {
    source = &from;
    row = (K_CONTIGUOUS ? int64_t(tile) * TILE : step * TILE_K) + int(threadIdx.x) / CHUNKS;
    column = int(K_CONTIGUOUS ? step * TILE_K : int64_t(tile) * TILE) + int(threadIdx.x) % CHUNKS * 8;
  }
  __device__ __forceinline__ void fetch(bfloat16*) {
    fetched_column = column;
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      inside[i] = row + i * ROWS_PER_COPY < source->rows;
      if (!inside[i]) continue;
      const uint8_t* corner = source->corner(row + i * ROWS_PER_COPY);
      pixels[i][0] = load_pixels(*source, corner, column);
      pixels[i][1] = load_pixels(*source, corner, column + 4);
    }
    if constexpr (K_CONTIGUOUS)
      column += TILE_K;
    else
      row += TILE_K;
  }
  __device__ __forceinline__ void place(bfloat16* tile) const {
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      float v[2][4] = {};
      if (inside[i]) {
        normalize_pixels(*source, pixels[i][0], fetched_column, v[0]);
        normalize_pixels(*source, pixels[i][1], fetched_column + 4, v[1]);
      }
      const uint4 values = make_uint4(pack_bfloat16(v[0][0], v[0][1]), pack_bfloat16(v[0][2], v[0][3]), pack_bfloat16(v[1][0], v[1][1]),
                                      pack_bfloat16(v[1][2], v[1][3]));
      const int at = swizzled<CHUNKS>(int(threadIdx.x) / CHUNKS + i * ROWS_PER_COPY, int(threadIdx.x) % CHUNKS) * 8;
      *reinterpret_cast<uint4*>(tile + at) = values;
    }
  }
};

// from (D, groups, members) -> to (D, members, groups): between (channel, pixel) of a weight and (pixel, channel) of a picture.
template <class T>
__global__ void swap_order_kernel(const T* from, T* to, int64_t n, int groups, int members) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t d = i / (groups * members);
    const int inside = int(i % (groups * members)), member = inside / groups, group = inside % groups;
    to[i] = from[(d * groups + group) * members + member];
  }
}

// ---- launchers

template <class T>
static void swap_order(const T* from, T* to, int64_t D, int groups, int members) {
  const int64_t n = D * groups * members;
  launch(swap_order_kernel<T>, grid_of((n + 255) / 256), 256, 0, from, to, n, groups, members);
}

static Patches patches_of(const Tensor& images, const Tensor& normalization, int64_t size) {
  const int64_t height = images.shape[1], width = images.shape[2];
  Patches patches;
  patches.images = images.data<uint8_t>();
  patches.normalization = normalization.data<float>();
  patches.rows = images.shape[0] * (height / size) * (width / size);
  patches.image_bytes = height * width * 3;
  patches.columns = int(3 * size * size);
  patches.run = int(3 * size);
  patches.row_bytes = int(3 * width);
  patches.across = unsigned(width / size);
  patches.per_image = unsigned(patches.across * (height / size));
  patches.words = size % 4 == 0 && reinterpret_cast<uintptr_t>(patches.images) % 4 == 0;
  if (patches.rows >> 31 || height * width >> 29)
    throw Error("SHAPE", "patchEmbedding: expected less than 2^31 patches, and 2^29 pixels per picture, but received " +
                             std::to_string(patches.rows) + " patches of pictures of " + std::to_string(height * width));
  return patches;
}

template <class T>
static Epilogue<T> plain(T* out, const T* bias, int64_t columns) {
  return {out, bias, nullptr, nullptr, columns, 1, Activation::none, false, whole_quads<T>(columns, out, bias)};
}

void patch_embedding_forward(const Tensor& images, const Tensor& weight, const Tensor& bias, const Tensor& normalization, Tensor& out,
                             int64_t patch_size) {
  dispatch_float(weight.dtype, [&]<class T>() {
    const Patches patches = patches_of(images, normalization, patch_size);
    const int64_t N = out.columns(), K = patches.columns;
    if (patches.rows == 0 || N == 0) return;
    const Scratch<T> pixel_weight(N * K);
    swap_order(weight.data<T>(), pixel_weight.data(), N, 3, int(K / 3));
    const Rows<T> right(pixel_weight.data(), N, K);
    multiply<true, true>(patches, right, patches, right, patches.rows, N, K, 0, 1, plain<T>(out.data<T>(), bias.data<T>(), N));
  });
}

void patch_embedding_backward(const Tensor& images, const Tensor& normalization, const Tensor& dout, Tensor& dweight, Tensor& dbias,
                              int64_t patch_size) {
  dispatch_float(dout.dtype, [&]<class T>() {
    const Patches patches = patches_of(images, normalization, patch_size);
    const int64_t N = dout.columns(), K = patches.columns;
    if (dbias) column_sums(dout.data<T>(), 1, patches.rows, N, dbias.data<T>());
    if (!dweight || N == 0) return;
    const Scratch<T> pixel_gradient(N * K);
    const Rows<T> left(dout.data<T>(), patches.rows, N);
    multiply<false, false>(left, patches, left, patches, N, K, patches.rows, 0, 1, plain<T>(pixel_gradient.data(), nullptr, K));
    swap_order(pixel_gradient.data(), dweight.data<T>(), N, int(K / 3), 3);
  });
}

}  // namespace galago::cuda
