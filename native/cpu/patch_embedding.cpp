// Patches of pictures through a dense layer: a convolution with stride = kernel size, as unfold and matrix product.
// Patches are unfolded and normalised a block of rows at a time, so that the floating-point patches of a batch never exist at once.
#include <algorithm>
#include <vector>

#include "column_sums.h"
#include "matmul.h"

namespace galago::cpu {

namespace {

constexpr int64_t block_values = 1 << 21;  // unfolded values per block

// The patches of a batch of pictures as rows (row, column, channel), the order of the pixels in memory.
template <class T>
struct Patches {
  const uint8_t* images;
  const T* normalization;
  int64_t height, width, size;

  int64_t columns() const { return 3 * size * size; }
  int64_t across() const { return width / size; }
  int64_t per_image() const { return across() * (height / size); }
  int64_t block() const { return std::max<int64_t>(1, block_values / columns()); }

  void unfold(int64_t first, int64_t count, T* out) const {
    const int64_t run = 3 * size;  // values of one patch that lie together in a picture
    std::vector<T> scale(run), shift(run);
    for (int64_t i = 0; i < run; i++) {
      scale[i] = normalization[i % 3];
      shift[i] = normalization[3 + i % 3];
    }
    parallel_for(count, row_grain(columns()), [&](int64_t begin, int64_t end) {
      vectorize([&] {
        const T *__restrict factor = scale.data(), *__restrict addend = shift.data();
        for (int64_t i = begin; i < end; i++) {
          const int64_t image = (first + i) / per_image(), patch = (first + i) % per_image();
          const uint8_t* corner = images + ((image * height + patch / across() * size) * width + patch % across() * size) * 3;
          for (int64_t row = 0; row < size; row++) {
            const uint8_t* __restrict pixels = corner + row * width * 3;
            T* __restrict values = out + i * columns() + row * run;
            for (int64_t j = 0; j < run; j++) values[j] = factor[j] * T(pixels[j]) + addend[j];
          }
        }
      });
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
  return {images.data<uint8_t>(), normalization.data<T>(), images.shape[1], images.shape[2], size};
}

}  // namespace

void patch_embedding_forward(const Tensor& images, const Tensor& weight, const Tensor& bias, const Tensor& normalization, Tensor& out,
                             int64_t patch_size) {
  dispatch_float(weight.dtype, [&]<class T>() {
    const auto patches = patches_of<T>(images, normalization, patch_size);
    const int64_t rows = out.rows(), N = out.columns(), K = patches.columns();
    const Epilogue<T> epilogue{bias.data<T>()};
    T* pixel_weight = scratch<T>(ScratchSlot::kernel_second, N * K);
    swap_order(N, 3, K / 3, weight.data<T>(), pixel_weight);
    for (int64_t first = 0; first < rows; first += patches.block()) {
      const int64_t count = std::min(patches.block(), rows - first);
      T* unfolded = scratch<T>(ScratchSlot::kernel, count * K);
      patches.unfold(first, count, unfolded);
      matmul<T>(Transpose::no, Transpose::yes, count, N, K, T(1), unfolded, K, pixel_weight, K, T(0), out.data<T>() + first * N, N,
                bias ? &epilogue : nullptr);
    }
  });
}

void patch_embedding_backward(const Tensor& images, const Tensor& normalization, const Tensor& dout, Tensor& dweight, Tensor& dbias,
                              int64_t patch_size) {
  dispatch_float(dout.dtype, [&]<class T>() {
    const auto patches = patches_of<T>(images, normalization, patch_size);
    const int64_t rows = dout.rows(), N = dout.columns(), K = patches.columns();
    if (dbias) column_sums(rows, N, dout.data<T>(), dbias.data<T>());
    if (!dweight) return;
    T* dpixel_weight = scratch<T>(ScratchSlot::kernel_second, N * K);
    std::fill_n(dpixel_weight, N * K, T(0));
    for (int64_t first = 0; first < rows; first += patches.block()) {
      const int64_t count = std::min(patches.block(), rows - first);
      T* unfolded = scratch<T>(ScratchSlot::kernel, count * K);
      patches.unfold(first, count, unfolded);
      matmul<T>(Transpose::yes, Transpose::no, N, K, count, T(1), dout.data<T>() + first * N, N, unfolded, K, T(1), dpixel_weight, K);
    }
    swap_order(N, K / 3, 3, dpixel_weight, dweight.data<T>());
  });
}

}  // namespace galago::cpu
