/*
concat and its backward; slice and its backward: copies of blocks, any dtype.

A tensor is seen as `outer` rows, each the part from the axis on; all sides are then strided runs of bytes, copied in the widest words
(16 to 1 bytes) that divide every address, stride and run. A launch takes up to 32 tensors, one for each blockIdx.y.
*/
#include <algorithm>
#include <vector>

#include "vec.cuh"

namespace galago::cuda {

namespace {

constexpr int parts_at_once = 32;

// `width` bytes for each of the outer rows, `from_stride` and `to_stride` apart.
struct Part {
  const char* from;
  char* to;
  int64_t from_stride, to_stride, width;
};

struct Parts {
  Part part[parts_at_once];
};

}  // namespace

template <class Word, class Index>
__global__ void __launch_bounds__(256) copy_parts_kernel(const Parts parts, int64_t outer) {
  constexpr int64_t size = sizeof(Word);
  const Part part = parts.part[blockIdx.y];
  const Word* from = reinterpret_cast<const Word*>(part.from);
  Word* to = reinterpret_cast<Word*>(part.to);
  const int64_t words = part.width / size, from_stride = part.from_stride / size, to_stride = part.to_stride / size;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < outer * words; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = Index(i) / Index(words), column = i - row * words;
    to[row * to_stride + column] = from[row * from_stride + column];
  }
}

// to: `outer` rows of `to_words`, zero but for `width` words from `start` on, which come from rows of `from`.
template <class Word, class Index>
__global__ void __launch_bounds__(256)
    place_kernel(const Word* from, Word* to, int64_t outer, int64_t to_words, int64_t start, int64_t width) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < outer * to_words; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = Index(i) / Index(to_words), column = i - row * to_words - start;
    to[i] = column >= 0 && column < width ? from[row * width + column] : Word{};
  }
}

// ---- launchers

// Calls body with the widest word that divides all of `bits`, addresses and byte counts joined by |.
template <class F>
static void dispatch_word(uint64_t bits, F&& body) {
  if (bits % 16 == 0) return body.template operator()<Pack<uint32_t>>();
  if (bits % 8 == 0) return body.template operator()<uint64_t>();
  if (bits % 4 == 0) return body.template operator()<uint32_t>();
  if (bits % 2 == 0) return body.template operator()<uint16_t>();
  body.template operator()<uint8_t>();
}

// A tensor as (outer, bytes): what is in front of the axis, and the rest.
struct Blocks {
  int64_t outer = 1, bytes = 1;
  Blocks(const Tensor& x, int64_t axis) {
    for (int d = 0; d < x.rank; d++) (d < axis ? outer : bytes) *= x.shape[d];
    bytes *= int64_t(size_of(x.dtype));
  }
};

static uint64_t address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

static void copy_parts(const std::vector<Part>& list, int64_t outer) {
  for (size_t first = 0; first < list.size(); first += parts_at_once) {
    const size_t count = std::min<size_t>(parts_at_once, list.size() - first);
    Parts parts;
    uint64_t bits = 0;
    int64_t longest = 0;
    for (size_t p = 0; p < count; p++) {
      const Part& part = parts.part[p] = list[first + p];
      bits |= address(part.from) | address(part.to) | uint64_t(part.from_stride) | uint64_t(part.to_stride) | uint64_t(part.width);
      longest = std::max(longest, outer * part.width);
    }
    dispatch_word(bits, [&]<class Word>() {
      const int64_t tile = 256 * 4 * int64_t(sizeof(Word));
      const dim3 grid(grid_of((longest + tile - 1) / tile), unsigned(count));
      if (longest <= int64_t(UINT32_MAX))
        launch(copy_parts_kernel<Word, uint32_t>, grid, 256, 0, parts, outer);
      else
        launch(copy_parts_kernel<Word, uint64_t>, grid, 256, 0, parts, outer);
    });
  }
}

void concat_forward(const TensorList& inputs, Tensor& out, int64_t axis) {
  const Blocks whole(out, axis);
  std::vector<Part> parts;
  int64_t offset = 0;
  for (const Tensor& x : inputs) {
    const int64_t width = Blocks(x, axis).bytes;
    if (x.size()) parts.push_back({x.data<char>(), out.data<char>() + offset, width, whole.bytes, width});
    offset += width;
  }
  CHECK(offset == whole.bytes, "concat: sizes do not add up");
  copy_parts(parts, whole.outer);
}

void concat_backward(const Tensor& dout, TensorList& dinputs, int64_t axis) {
  const Blocks whole(dout, axis);
  std::vector<Part> parts;
  int64_t offset = 0;
  for (Tensor& dx : dinputs) {
    const int64_t width = Blocks(dx, axis).bytes;
    if (dx.size()) parts.push_back({dout.data<char>() + offset, dx.data<char>(), whole.bytes, width, width});
    offset += width;
  }
  copy_parts(parts, whole.outer);
}

void slice_forward(const Tensor& x, Tensor& out, int64_t axis, int64_t start) {
  if (out.size() == 0) return;
  const Blocks whole(x, axis), part(out, axis);
  const int64_t unit = whole.bytes / x.shape[axis];
  copy_parts({{x.data<char>() + start * unit, out.data<char>(), whole.bytes, part.bytes, part.bytes}}, whole.outer);
}

void slice_backward(const Tensor& dout, Tensor& dx, int64_t axis, int64_t start) {
  if (dx.size() == 0) return;
  const Blocks whole(dx, axis), part(dout, axis);
  const int64_t begin = start * (whole.bytes / dx.shape[axis]), total = whole.outer * whole.bytes;
  const char* from = dout.data<char>();
  char* to = dx.data<char>();
  dispatch_word(address(from) | address(to) | uint64_t(whole.bytes) | uint64_t(part.bytes) | uint64_t(begin), [&]<class Word>() {
    constexpr int64_t size = sizeof(Word);
    const auto run = [&](auto* kernel) {
      launch(kernel, grid_of((total + 1024 * size - 1) / (1024 * size)), 256, 0, reinterpret_cast<const Word*>(from),
             reinterpret_cast<Word*>(to), whole.outer, whole.bytes / size, begin / size, part.bytes / size);
    };
    total <= int64_t(UINT32_MAX) ? run(place_kernel<Word, uint32_t>) : run(place_kernel<Word, uint64_t>);
  });
}

}  // namespace galago::cuda
