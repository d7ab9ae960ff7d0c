/*
The last encoded vector of every item, by item row: read with a join of rows staged in this step, and commit. A thread finds where a row
comes from, its warp copies 32 of them; a warp writes one row of a commit. Rows that are not finite or all zero are refused and counted.
*/
#include "words.cuh"

namespace galago::cuda {

template <class Word>
__global__ void content_table_read_kernel(const Word* rows, const int32_t* steps, const int32_t* keys, const int32_t* staged_keys,
                                          const Word* staged, Word* out, int32_t* ages, int64_t n, int64_t items, int64_t fresh,
                                          int64_t words, int64_t now, IndexReport report) {
  const int64_t warps = int64_t(gridDim.x) * blockDim.x / warp_size, groups = (n + warp_size - 1) / warp_size;
  for (int64_t group = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size; group < groups; group += warps) {
    const int64_t first = group * warp_size, i = first + lane();
    const Word* from = nullptr;
    if (i < n) {
      const int32_t key = keys[i];
      if (key >= items) report(i, key);
      const int64_t found = key < 0 ? -1 : find_sorted(staged_keys, fresh, key);
      const bool written = found < 0 && key >= 0 && key < items && steps[key] >= 0;
      if (found >= 0) from = staged + found * words;
      if (written) from = rows + key * words;
      ages[i] = found >= 0 ? 0 : written ? int32_t(now) - steps[key] : -1;
    }
    copy_rows_of_warp(from, out + first * words, int(n - first < warp_size ? n - first : warp_size), words);
  }
}

template <class Bits, class Word>
__global__ void content_table_commit_kernel(Word* rows, int32_t* steps, int32_t* refused, const int32_t* staged_keys, const Word* staged,
                                            const double* factor, int64_t n, int64_t items, int64_t D, int64_t words, int64_t now,
                                            IndexReport report) {
  if (factor && !(*factor > 0)) return;  // NaN: the step was skipped, it leaves no trace
  const int64_t warps = int64_t(gridDim.x) * blockDim.x / warp_size;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size; i < n; i += warps) {
    const int32_t key = staged_keys[i];
    if (key < 0 || key >= items) {
      if (lane() == 0) report(i, key);
      continue;
    }
    const Word* row = staged + i * words;
    if (!usable_row_of_warp(reinterpret_cast<const Bits*>(row), D)) {
      if (lane() == 0) atomicAdd(refused, 1);
      continue;
    }
    copy_row_of_warp(row, rows + key * words, words);
    if (lane() == 0) steps[key] = int32_t(now);
  }
}

// ---- launchers

void content_table_read(const Tensor& rows, const Tensor& steps, const Tensor& keys, const Tensor& staged_keys, const Tensor& staged,
                        Tensor& out, Tensor& age, int64_t now) {
  const int64_t n = keys.size(), row_bytes = rows.shape[1] * int64_t(size_of(rows.dtype));
  dispatch_words(
      row_bytes,
      [&]<class Word>() {
        launch(content_table_read_kernel<Word>, grid_of((n + 255) / 256), 256, 0, rows.data<Word>(), steps.data<int32_t>(),
               keys.data<int32_t>(), staged_keys.data<int32_t>(), staged.data<Word>(), out.data<Word>(), age.data<int32_t>(), n,
               steps.size(), staged_keys ? staged_keys.size() : 0, row_bytes / int64_t(sizeof(Word)), now,
               index_report("content_table_read", "keys", steps.size()));
      },
      rows.data<void>(), staged.data<void>(), out.data<void>());
}

void content_table_commit(Tensor& rows, Tensor& steps, Tensor& refused, const Tensor& staged_keys, const Tensor& staged,
                          const Tensor& factor, int64_t now) {
  const int64_t n = staged_keys.size(), D = rows.shape[1], row_bytes = D * int64_t(size_of(rows.dtype));
  dispatch_bits(rows.dtype, [&]<class Bits>() {
    dispatch_words(
        row_bytes,
        [&]<class Word>() {
          launch(content_table_commit_kernel<Bits, Word>, grid_of((n + 7) / 8), 256, 0, rows.data<Word>(), steps.data<int32_t>(),
                 refused.data<int32_t>(), staged_keys.data<int32_t>(), staged.data<Word>(), factor.data<double>(), n, steps.size(), D,
                 row_bytes / int64_t(sizeof(Word)), now, index_report("content_table_commit", "staged_keys", steps.size()));
        },
        rows.data<void>(), staged.data<void>());
  });
}

}  // namespace galago::cuda
