// Patches of pictures through a dense layer: a convolution with stride = kernel size, as unfold and matrix product.
// Patches are unfolded and normalised a block of rows at a time, so that the floating-point patches of a batch never exist at once.
#include <algorithm>

#include "column_sums.h"
#include "matmul.h"

namespace galago::cpu {

namespace {

constexpr int64_t block_values = 1 << 21;  // unfolded values per block

// The patches of a batch of pictures as rows (channel, row, column).
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
    parallel_for(count, row_grain(columns()), [&](int64_t begin, int64_t end) {
      vectorize([&] {
        for (int64_t i = begin; i < end; i++) {
          const int64_t image = (first + i) / per_image(), patch = (first + i) % per_image();
          const uint8_t* corner = images + ((image * height + patch / across() * size) * width + patch % across() * size) * 3;
          for (int64_t channel = 0; channel < 3; channel++) {
            const T scale = normalization[channel], shift = normalization[3 + channel];
            for (int64_t row = 0; row < size; row++) {
              const uint8_t* __restrict pixels = corner + row * width * 3 + channel;
              T* __restrict values = out + i * columns() + (channel * size + row) * size;
              for (int64_t column = 0; column < size; column++) values[column] = scale * T(pixels[column * 3]) + shift;
            }
          }
        }
      });
    });
  }
};

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
    for (int64_t first = 0; first < rows; first += patches.block()) {
      const int64_t count = std::min(patches.block(), rows - first);
      T* unfolded = scratch<T>(ScratchSlot::kernel, count * K);
      patches.unfold(first, count, unfolded);
      matmul<T>(Transpose::no, Transpose::yes, count, N, K, T(1), unfolded, K, weight.data<T>(), K, T(0), out.data<T>() + first * N, N,
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
    if (rows == 0) std::fill_n(dweight.data<T>(), N * K, T(0));
    for (int64_t first = 0; first < rows; first += patches.block()) {
      const int64_t count = std::min(patches.block(), rows - first);
      T* unfolded = scratch<T>(ScratchSlot::kernel, count * K);
      patches.unfold(first, count, unfolded);
      matmul<T>(Transpose::yes, Transpose::no, N, K, count, T(1), dout.data<T>() + first * N, N, unfolded, K, first ? T(1) : T(0),
                dweight.data<T>(), K);
    }
  });
}

}  // namespace galago::cpu
