// Offsets of jagged data on the device: segment b is [offsets[b], offsets[b + 1]), made safe to use.
#pragma once
#include "launch.cuh"

namespace galago::cuda {

struct Segment {
  int64_t begin, end;
};

struct Offsets {
  const int32_t* at;
  int64_t segments, total;
  IndexReport report;

  // A bad offset is reported; the segment that it bounds stays within [0, total].
  __device__ Segment operator[](int64_t b) const {
    const int64_t begin = at[b], end = at[b + 1];
    if (begin < 0 || begin > total)
      report(b, begin);
    else if (end < begin || end > total)
      report(b + 1, end);
    const int64_t first = min(max(begin, int64_t(0)), total);
    return {first, min(max(end, first), total)};
  }

  // Rows of no segment become `value`; called by every thread of the grid.
  template <class T>
  __device__ void fill_outside(T* rows, int64_t columns, T value) const {
    const int64_t before = min(max(int64_t(at[0]), int64_t(0)), total) * columns;
    const int64_t covered = min(max(int64_t(at[segments]), int64_t(0)), total) * columns;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, stride = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < before; i += stride) rows[i] = value;
    for (int64_t i = covered + first; i < total * columns; i += stride) rows[i] = value;
  }
  template <class T>
  __device__ void zero_outside(T* rows, int64_t columns) const {
    fill_outside(rows, columns, T{});
  }
};

// For the kernels of `op`, by value. `total` is the number of rows of the jagged data.
inline Offsets offsets_of(const char* op, const Tensor& offsets, int64_t total, const char* argument = "offsets") {
  return {offsets.data<int32_t>(), offsets.size() - 1, total, index_report(op, argument, total + 1)};
}

}  // namespace galago::cuda
