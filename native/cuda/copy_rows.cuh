// Rows by index, bytes as they are: out[i] = x[index[i]]. For embedding and gather_rows, any dtype.
#pragma once
#include "vec.cuh"

namespace galago::cuda {

// Neighbouring threads copy neighbouring words of out. A negative index gives a zero row, one of N or more too, and is reported.
template <class Word, class Index>
__global__ void __launch_bounds__(256, 4)
    copy_rows_kernel(const Word* __restrict__ x, const int32_t* __restrict__ index, Word* __restrict__ out, int64_t total, int64_t words,
                     int64_t N, IndexReport report) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
#pragma unroll 4
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t row = Index(i) / Index(words), column = i - row * words;
    const int64_t from = index[row];
    if (from >= N && column == 0) report(row, from);
    out[i] = from >= 0 && from < N ? x[from * words + column] : Word{};
  }
}

// x: N rows of `row_bytes`.
inline void copy_rows(const void* x, int64_t N, int64_t row_bytes, const Tensor& index, void* out, IndexReport report) {
  const auto run = [&]<class Word>() {
    const int64_t words = row_bytes / int64_t(sizeof(Word)), total = index.size() * words;
    const auto start = [&](auto* kernel) {
      launch(kernel, grid_of((total + 1023) / 1024), 256, 0, static_cast<const Word*>(x), index.data<int32_t>(), static_cast<Word*>(out),
             total, words, N, report);
    };
    total <= int64_t(UINT32_MAX) ? start(copy_rows_kernel<Word, uint32_t>) : start(copy_rows_kernel<Word, uint64_t>);
  };
  const uint64_t bits = reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(out) | uint64_t(row_bytes);
  if (bits % 16 == 0) return run.template operator()<Pack<uint32_t>>();
  if (bits % 4 == 0) return run.template operator()<uint32_t>();
  if (bits % 2 == 0) return run.template operator()<uint16_t>();
  run.template operator()<uint8_t>();
}

}  // namespace galago::cuda
