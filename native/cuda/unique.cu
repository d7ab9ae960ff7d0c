/*
Distinct keys in ascending order, and where each key went: keys sorted with their positions, runs of equal keys numbered by a scan,
every entry writes its own run. Nothing is read back: the count stays on the device.
*/
#include "sort.cuh"

namespace galago::cuda {

template <class Key>
__global__ void unique_keys_kernel(const Key* keys, Key* sorted, int32_t* positions, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    sorted[i] = flip_sign(keys[i]);
    positions[i] = int32_t(i);
  }
}

// unique[run] = key by the last entry of each run, inverse[position] = run by all; -1 behind the last run.
template <class Key>
__global__ void unique_write_kernel(const Key* sorted, const int32_t* positions, const int32_t* run, Key* unique, int32_t* inverse,
                                    int32_t* count, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  const int32_t runs = run[n - 1] + 1;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    inverse[positions[i]] = run[i];
    if (i + 1 == n || run[i] != run[i + 1]) unique[run[i]] = flip_sign(sorted[i]);
    if (i >= runs) unique[i] = Key(-1);
    if (i == 0) *count = runs;
  }
}

// ---- launchers

template <class Key>
static void unique_of(const Tensor& keys, Tensor& unique, Tensor& inverse, Tensor& count) {
  const int64_t n = keys.size();
  const unsigned grid = grid_of((n + 255) / 256);
  RadixSort<Key> order(n);
  launch(unique_keys_kernel<Key>, grid, 256, 0, keys.data<Key>(), order.keys(), order.positions(), n);
  order.sort(8 * sizeof(Key));
  const Scratch<int32_t> run(n);
  number_runs(order.keys(), run.data(), n);
  launch(unique_write_kernel<Key>, grid, 256, 0, order.keys(), order.positions(), run.data(), unique.data<Key>(), inverse.data<int32_t>(),
         count.data<int32_t>(), n);
}

void unique(const Tensor& keys, Tensor& unique, Tensor& inverse, Tensor& count) {
  if (keys.size() == 0) return fill(count, 0);
  if (keys.dtype == DType::int64) return unique_of<uint64_t>(keys, unique, inverse, count);
  unique_of<uint32_t>(keys, unique, inverse, count);
}

}  // namespace galago::cuda
