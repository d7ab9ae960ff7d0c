// Patches of pictures through a dense layer: a convolution with stride = kernel size, as unfold and matrix product.
// Patches are unfolded and normalised a block of rows at a time: the block stays in the second-level cache until the product has read it.
// Blocks follow from shapes alone; each has its partial weight gradient, added in the order of the blocks.
#include <algorithm>
#include <vector>

#include "column_sums.h"
#include "matmul.h"

namespace galago::cpu {

namespace {

constexpr int64_t block_values = 1 << 16;  // unfolded values per block
constexpr int64_t most_partials = 32;

// The patches of a batch of pictures as rows (row, column, channel), the order of the pixels in memory.
template <class T>
struct Patches {
  const uint8_t* images;
  const T* normalization;
  int64_t count, height, width, size;

  int64_t columns() const { return 3 * size * size; }
  int64_t across() const { return width / size; }
  int64_t per_image() const { return across() * (height / size); }
  int64_t block() const { return std::max<int64_t>(1, block_values / columns()); }
  int64_t rows() const { return per_image() * count; }

  // Rows [begin, end) to `out`.
  void unfold(int64_t begin, int64_t end, T* out) const {
    const int64_t run = 3 * size;  // values of one patch that lie together in a picture
    std::vector<T> scale(run), shift(run);
    for (int64_t i = 0; i < run; i++) {
      scale[i] = normalization[i % 3];
      shift[i] = normalization[3 + i % 3];
    }
    vectorize<T>([&] {
      const T* __restrict factor = scale.data(), * __restrict addend = shift.data();
      for (int64_t i = begin; i < end; i++) {
        const int64_t image = i / per_image(), patch = i % per_image();
        const uint8_t* corner = images + ((image * height + patch / across() * size) * width + patch % across() * size) * 3;
        for (int64_t row = 0; row < size; row++) {
          const uint8_t* __restrict pixels = corner + row * width * 3;
          T* __restrict values = out + (i - begin) * columns() + row * run;
          for (int64_t j = 0; j < run; j++) values[j] = factor[j] * T(pixels[j]) + addend[j];
        }
      }
    });
  }
};

// source (D, groups, members) -> target (D, members, groups): between (channel, pixel) of a weight and (pixel, channel) of a picture.
template <class T>
void swap_order(int64_t D, int64_t groups, int64_t members, const T* source, T* target) {
  for (int64_t d = 0; d < D; d++) {
    for (int64_t g = 0; g < groups; g++) {
      for (int64_t m = 0; m < members; m++) target[(d * members + m) * groups + g] = source[(d * groups + g) * members + m];
    }
  }
}

template <class T>
Patches<T> patches_of(const Tensor& images, const Tensor& normalization, int64_t size) {
  return {images.data<uint8_t>(), normalization.data<T>(), images.shape[0], images.shape[1], images.shape[2], size};
}

}  // namespace

void patch_embedding_forward(const Tensor& images, const Tensor& weight, const Tensor& bias, const Tensor& normalization, Tensor& out,
                             int64_t patch_size) {
  dispatch_float(weight.dtype, [&]<class T>() {
    const auto patches = patches_of<T>(images, normalization, patch_size);
    const int64_t N = out.columns(), K = patches.columns();
    const Epilogue<T> epilogue{bias.data<T>()};
    T *po = out.data<T>(), *pixel_weight = scratch<T>(ScratchSlot::kernel_second, N * K);
    swap_order(N, 3, K / 3, weight.data<T>(), pixel_weight);
    parallel_for(patches.rows(), patches.block(), [&](int64_t begin, int64_t end) {
      T* unfolded = scratch<T>(ScratchSlot::kernel, (end - begin) * K);
      patches.unfold(begin, end, unfolded);
      matmul<T>(Transpose::no, Transpose::yes, end - begin, N, K, T(1), unfolded, K, pixel_weight, K, T(0), po + begin * N, N,
                bias ? &epilogue : nullptr);
    });
  });
}

void patch_embedding_backward(const Tensor& images, const Tensor& normalization, const Tensor& dout, Tensor& dweight, Tensor& dbias,
                              int64_t patch_size) {
  dispatch_float(dout.dtype, [&]<class T>() {
    const auto patches = patches_of<T>(images, normalization, patch_size);
    const int64_t rows = dout.rows(), N = dout.columns(), K = patches.columns();
    const T* pd = dout.data<T>();
    if (dbias) column_sums(rows, N, pd, dbias.data<T>());
    if (!dweight) return;
    const int64_t blocks = chunk_count(rows, patches.block());
    const int64_t per_chunk = std::max<int64_t>(1, chunk_count(blocks, most_partials)) * patches.block();
    const int64_t chunks = std::max<int64_t>(1, chunk_count(rows, per_chunk)), size = N * K;
    T* partial = scratch<T>(ScratchSlot::kernel_second, chunks * size);
    std::fill_n(partial, size, T(0));  // of a batch without pictures
    parallel_for(rows, per_chunk, [&](int64_t first, int64_t last) {
      T* sum = partial + first / per_chunk * size;
      T* unfolded = scratch<T>(ScratchSlot::kernel, patches.block() * K);
      for (int64_t begin = first; begin < last; begin += patches.block()) {
        const int64_t end = std::min(last, begin + patches.block());
        patches.unfold(begin, end, unfolded);
        matmul<T>(Transpose::yes, Transpose::no, N, K, end - begin, T(1), pd + begin * N, N, unfolded, K, T(begin == first ? 0 : 1), sum,
                  K);
      }
    });
    T* dpixel_weight = partial;
    for (int64_t chunk = 1; chunk < chunks; chunk++)
      for (int64_t i = 0; i < size; i++) dpixel_weight[i] += partial[chunk * size + i];
    swap_order(N, K / 3, 3, dpixel_weight, dweight.data<T>());
  });
}

}  // namespace galago::cpu
