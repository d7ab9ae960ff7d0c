// concat and its backward; slice and its backward: copies of blocks, any dtype of four or eight bytes.
#include <cstring>

#include "dispatch.h"

namespace galago::cpu {

namespace {

// A tensor as (outer, length along axis * inner): blocks of consecutive bytes.
struct Blocks {
  int64_t outer = 1, bytes = 1;
  Blocks(const Tensor& x, int64_t axis) {
    for (int d = 0; d < x.rank; d++) (d < axis ? outer : bytes) *= x.shape[d];
    bytes *= int64_t(size_of(x.dtype));
  }
};

// Copies `bytes` per outer index between strided blocks.
void copy_blocks(const char* from, int64_t from_stride, char* to, int64_t to_stride, int64_t outer, int64_t bytes) {
  if (bytes == 0) return;
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / bytes);
  parallel_for(outer, grain, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; o++) std::memcpy(to + o * to_stride, from + o * from_stride, size_t(bytes));
  });
}

}  // namespace

void concat_forward(const TensorList& inputs, Tensor& out, int64_t axis) {
  const Blocks whole(out, axis);
  int64_t offset = 0;
  for (const Tensor& x : inputs) {
    const Blocks part(x, axis);
    copy_blocks(x.data<char>(), part.bytes, out.data<char>() + offset, whole.bytes, part.outer, part.bytes);
    offset += part.bytes;
  }
  CHECK(offset == whole.bytes, "concat: sizes do not add up");
}

void concat_backward(const Tensor& dout, TensorList& dinputs, int64_t axis) {
  const Blocks whole(dout, axis);
  int64_t offset = 0;
  for (Tensor& dx : dinputs) {
    const Blocks part(dx, axis);
    copy_blocks(dout.data<char>() + offset, whole.bytes, dx.data<char>(), part.bytes, part.outer, part.bytes);
    offset += part.bytes;
  }
}

void slice_forward(const Tensor& x, Tensor& out, int64_t axis, int64_t start) {
  const Blocks whole(x, axis), part(out, axis);
  const int64_t unit = x.shape[axis] ? whole.bytes / x.shape[axis] : 0;
  copy_blocks(x.data<char>() + start * unit, whole.bytes, out.data<char>(), part.bytes, part.outer, part.bytes);
}

void slice_backward(const Tensor& dout, Tensor& dx, int64_t axis, int64_t start) {
  const Blocks whole(dx, axis), part(dout, axis);
  const int64_t unit = dx.shape[axis] ? whole.bytes / dx.shape[axis] : 0;
  fill(dx, 0);
  copy_blocks(dout.data<char>(), part.bytes, dx.data<char>() + start * unit, whole.bytes, part.outer, part.bytes);
}

}  // namespace galago::cpu
