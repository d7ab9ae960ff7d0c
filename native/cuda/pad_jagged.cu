/*
Jagged rows into a rectangle padded with zeros, and back. Row b is one run of bytes in both, so a warp copies a stretch of it in the
largest unit that entries and addresses allow, 16 bytes at best; the dtype does not matter. Stretches follow from L, not from the grid.
*/
#include <algorithm>

#include "offsets.cuh"
#include "row_lanes.cuh"
#include "vec.cuh"

namespace galago::cuda {

constexpr int64_t stretch = 256;  // units

// Units of a stretch per row of the rectangle, and the calling warp's next piece: piece = b * stretches + (stretch of row b).
__device__ __forceinline__ int64_t first_piece() { return int64_t(blockIdx.x) * (row_block / warp_size) + warp(); }
__device__ __forceinline__ int64_t piece_step() { return int64_t(gridDim.x) * (row_block / warp_size); }

// L and entry in units: row b of the rectangle has L, an entry of x has `entry`.
template <class Unit>
__global__ void pad_jagged_forward_kernel(const Unit* x, Offsets offsets, Unit* out, int64_t L, int64_t entry, int64_t stretches) {
  for (int64_t piece = first_piece(); piece < offsets.segments * stretches; piece += piece_step()) {
    const int64_t b = piece / stretches, from = piece % stretches * stretch, to = min(from + stretch, L);
    const Segment s = offsets[b];
    const Unit* row = x + s.begin * entry;
    const int64_t kept = min((s.end - s.begin) * entry, L);
    for (int64_t u = from + lane(); u < to; u += warp_size) out[b * L + u] = u < kept ? row[u] : Unit{};
  }
}

// The last stretch of a row also zeroes the entries that did not fit into the rectangle.
template <class Unit>
__global__ void pad_jagged_backward_kernel(const Unit* dout, Offsets offsets, Unit* dx, int64_t L, int64_t entry, int64_t stretches) {
  for (int64_t piece = first_piece(); piece < offsets.segments * stretches; piece += piece_step()) {
    const int64_t b = piece / stretches, from = piece % stretches * stretch;
    const Segment s = offsets[b];
    Unit* row = dx + s.begin * entry;
    const int64_t length = (s.end - s.begin) * entry;
    const int64_t to = piece % stretches == stretches - 1 ? length : min(from + stretch, length);
    for (int64_t u = from + lane(); u < to; u += warp_size) row[u] = u < L ? dout[b * L + u] : Unit{};
  }
  offsets.zero_outside(dx, entry);
}

// ---- launchers

// Calls body with the type of the largest unit that divides an entry of that many bytes and all addresses.
template <class F, class... Pointers>
static void dispatch_unit(size_t entry, F&& body, Pointers... pointers) {
  const auto fits = [&](size_t size) { return entry % size == 0 && ((reinterpret_cast<uintptr_t>(pointers) % size == 0) && ...); };
  if (fits(16)) return body.template operator()<Pack<float>>();
  if (fits(8)) return body.template operator()<uint64_t>();
  if (fits(4)) return body.template operator()<uint32_t>();
  if (fits(2)) return body.template operator()<uint16_t>();
  body.template operator()<uint8_t>();
}

static unsigned warps_grid(int64_t pieces) {
  const int64_t per_block = row_block / warp_size;
  return grid_of((pieces + per_block - 1) / per_block);
}

void pad_jagged_forward(const Tensor& x, const Tensor& offsets, Tensor& out) {
  const int64_t D = out.rank == 3 ? out.shape[2] : 1;
  const Offsets rows = offsets_of("padJagged", offsets, x.shape[0]);
  const size_t bytes = size_t(D) * size_of(x.dtype);
  dispatch_unit(
      bytes,
      [&]<class Unit>() {
        const int64_t entry = int64_t(bytes / sizeof(Unit)), L = out.shape[1] * entry, stretches = (L + stretch - 1) / stretch;
        launch(pad_jagged_forward_kernel<Unit>, warps_grid(rows.segments * stretches), row_block, 0, x.data<Unit>(), rows, out.data<Unit>(),
               L, entry, stretches);
      },
      x.data<void>(), out.data<void>());
}

void pad_jagged_backward(const Tensor& dout, const Tensor& offsets, Tensor& dx) {
  const int64_t D = dout.rank == 3 ? dout.shape[2] : 1;
  const Offsets rows = offsets_of("padJagged", offsets, dx.shape[0]);
  const size_t bytes = size_t(D) * size_of(dx.dtype);
  dispatch_unit(
      bytes,
      [&]<class Unit>() {
        const int64_t entry = int64_t(bytes / sizeof(Unit)), L = dout.shape[1] * entry;
        const int64_t stretches = std::max<int64_t>(1, (L + stretch - 1) / stretch);
        launch(pad_jagged_backward_kernel<Unit>, warps_grid(rows.segments * stretches + 1), row_block, 0, dout.data<Unit>(), rows,
               dx.data<Unit>(), L, entry, stretches);
      },
      dout.data<void>(), dx.data<void>());
}

}  // namespace galago::cuda
