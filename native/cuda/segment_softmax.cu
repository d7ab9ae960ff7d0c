/*
Softmax over the rows of each segment, column by column: p = e^(x - max) / sum; dx = p (dp - sum p dp). Rows of no segment are 0.
A warp owns a segment's group of columns: its lanes are `width` columns times 32 / width rows, so one column has all lanes along the
rows and 32 columns or more have them along the columns. Statistics are float32.
*/
#include "offsets.cuh"
#include "row_lanes.cuh"

namespace galago::cuda {

template <class T>
__global__ void segment_softmax_forward_kernel(const T* x, Offsets offsets, T* out, int64_t H, int width) {
  const int64_t groups = (H + width - 1) / width, step = warp_size / width;
  const int64_t warps = int64_t(gridDim.x) * (row_block / warp_size);
  for (int64_t piece = int64_t(blockIdx.x) * (row_block / warp_size) + warp(); piece < offsets.segments * groups; piece += warps) {
    const Segment s = offsets[piece / groups];
    const int64_t h = piece % groups * width + lane() % width;
    const int64_t first = s.begin + lane() / width, end = h < H ? s.end : 0;
    float top = -INFINITY, sum = 0;
    for (int64_t i = first; i < end; i += step) top = fmaxf(top, to_float(x[i * H + h]));
    top = max_of_rows(top, width);
    if (top == -INFINITY) top = 0;
    for (int64_t i = first; i < end; i += step) sum += expf(to_float(x[i * H + h]) - top);
    sum = sum_of_rows(sum, width);
    const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
    for (int64_t i = first; i < end; i += step) out[i * H + h] = from_float<T>(expf(to_float(x[i * H + h]) - top) * inverse);
  }
  offsets.zero_outside(out, H);
}

template <class T>
__global__ void segment_softmax_backward_kernel(const T* out, Offsets offsets, const T* dout, T* dx, int64_t H, int width) {
  const int64_t groups = (H + width - 1) / width, step = warp_size / width;
  const int64_t warps = int64_t(gridDim.x) * (row_block / warp_size);
  for (int64_t piece = int64_t(blockIdx.x) * (row_block / warp_size) + warp(); piece < offsets.segments * groups; piece += warps) {
    const Segment s = offsets[piece / groups];
    const int64_t h = piece % groups * width + lane() % width;
    const int64_t first = s.begin + lane() / width, end = h < H ? s.end : 0;
    float delta = 0;
    for (int64_t i = first; i < end; i += step) delta += to_float(out[i * H + h]) * to_float(dout[i * H + h]);
    delta = sum_of_rows(delta, width);
    for (int64_t i = first; i < end; i += step)
      dx[i * H + h] = from_float<T>(to_float(out[i * H + h]) * (to_float(dout[i * H + h]) - delta));
  }
  offsets.zero_outside(dx, H);
}

// ---- launchers

// One warp per piece, at least one block: there may be rows of no segment.
static unsigned segment_grid(int64_t pieces) {
  const int64_t per_block = row_block / warp_size;
  return grid_of(pieces == 0 ? 1 : (pieces + per_block - 1) / per_block);
}

void segment_softmax_forward(const Tensor& x, const Tensor& offsets, Tensor& out) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t H = x.rank == 1 ? 1 : x.columns();
    const int width = lanes_for(H, 1);
    const Offsets segments = offsets_of("segmentSoftmax", offsets, x.shape[0]);
    launch(segment_softmax_forward_kernel<T>, segment_grid(segments.segments * ((H + width - 1) / width)), row_block, 0, x.data<T>(),
           segments, out.data<T>(), H, width);
  });
}

void segment_softmax_backward(const Tensor& out, const Tensor& offsets, const Tensor& dout, Tensor& dx) {
  dispatch_float(out.dtype, [&]<class T>() {
    const int64_t H = out.rank == 1 ? 1 : out.columns();
    const int width = lanes_for(H, 1);
    const Offsets segments = offsets_of("segmentSoftmax", offsets, out.shape[0]);
    launch(segment_softmax_backward_kernel<T>, segment_grid(segments.segments * ((H + width - 1) / width)), row_block, 0, out.data<T>(),
           segments, dout.data<T>(), dx.data<T>(), H, width);
  });
}

}  // namespace galago::cuda
