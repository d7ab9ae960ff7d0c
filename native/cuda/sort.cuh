/*
Stable radix sort of unsigned keys with their positions: equal keys stay in order of position.

Least significant digit first, 8 bits a pass. A tile is 2048 entries, whatever the grid:
  1. count[digit][tile]: how often each digit occurs in each tile (integer atomics in shared memory, whose order reaches no result);
  2. exclusive sums over count, digit by digit, tile by tile: where the first entry of (digit, tile) goes;
  3. each tile ranks its entries in order, sorts itself in shared memory, and writes its digits as contiguous pieces.
In step 3 warp w owns entries 256 w .. 256 w + 255 of the tile, 32 at a time, so its order is that of the input; lanes with the same
digit find each other by ballots. Kernel boundaries are the only order between blocks. One path for the GPU and for the emulator.

Shared memory: count (8 warps x 256 digits) 8 KB + 2 KB + sorted tile 16 or 24 KB.
*/
#pragma once
#include <utility>

#include "scan.cuh"

namespace galago::cuda {

constexpr int radix_bits = 8, radix_digits = 1 << radix_bits, radix_threads = 256, radix_warps = radix_threads / warp_size;
constexpr int radix_items = 8, radix_tile = radix_threads * radix_items;
static_assert(radix_threads == radix_digits, "thread d sums digit d");

// Bits that tell `values` different values 0 .. values - 1 apart.
constexpr int bits_for(uint64_t values) {
  int bits = 0;
  while (bits < 64 && values > 1 && ((values - 1) >> bits) != 0) bits++;
  return bits;
}
static_assert(bits_for(0) == 0 && bits_for(1) == 0 && bits_for(2) == 1 && bits_for(256) == 8 && bits_for(257) == 9 &&
              bits_for(~0ull) == 64);

// Signed keys sort like these unsigned ones; the same call turns them back.
__device__ __forceinline__ uint32_t flip_sign(uint32_t key) { return key ^ 0x80000000u; }
__device__ __forceinline__ uint64_t flip_sign(uint64_t key) { return key ^ 0x8000000000000000ull; }

// `mask` cuts the last digit to the bits that take part.
template <class Key>
__device__ __forceinline__ int radix_digit(Key key, int shift, int mask) {
  return int(key >> shift) & mask;
}

template <class Key>
__global__ void radix_count_kernel(const Key* keys, int32_t* count, int64_t n, int64_t tiles, int shift, int mask) {
  SHARED(int[radix_digits], sums);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    sums[threadIdx.x] = 0;
    __syncthreads();
    for (int k = 0; k < radix_items; k++) {
      const int64_t i = tile * radix_tile + k * radix_threads + threadIdx.x;
      if (i < n) atomicAdd(&sums[radix_digit(keys[i], shift, mask)], 1);
    }
    __syncthreads();
    count[threadIdx.x * tiles + tile] = sums[threadIdx.x];
    __syncthreads();
  }
}

template <class Key>
__global__ void radix_scatter_kernel(const Key* keys, const int32_t* positions, Key* to_keys, int32_t* to_positions, const int32_t* starts,
                                     int64_t n, int64_t tiles, int shift, int mask) {
  SHARED(int[radix_warps][radix_digits], rank);  // entries so far of (warp, digit), then where the first of them goes in the tile
  SHARED(int[radix_digits], start);              // where the tile's digit goes in the output, less its place in the tile
  SHARED(Key[radix_tile], sorted_keys);
  SHARED(int32_t[radix_tile], sorted_positions);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    for (int w = 0; w < radix_warps; w++) rank[w][threadIdx.x] = 0;
    __syncthreads();

    Key key[radix_items];
    int32_t position[radix_items];
    int before[radix_items];
    const int64_t first = tile * radix_tile + warp() * (warp_size * radix_items) + lane();
#pragma unroll
    for (int k = 0; k < radix_items; k++) {
      const int64_t i = first + k * warp_size;
      const bool valid = i < n;
      key[k] = valid ? keys[i] : Key(0);
      position[k] = valid ? positions[i] : 0;
      const int digit = radix_digit(key[k], shift, mask);
      unsigned equal = __ballot_sync(full_mask, valid);
#pragma unroll
      for (int bit = 0; bit < radix_bits; bit++) {
        const unsigned set = __ballot_sync(full_mask, digit >> bit & 1);
        equal &= digit >> bit & 1 ? set : ~set;
      }
      const int earlier = __popc(equal & ((1u << lane()) - 1));
      const int seen = rank[warp()][digit];
      before[k] = seen + earlier;
      __syncwarp();  // every lane has read before the first of its digit writes
      if (valid && earlier == 0) rank[warp()][digit] = seen + __popc(equal);
      __syncwarp();
    }
    __syncthreads();

    int sum = 0, total;
    for (int w = 0; w < radix_warps; w++) {
      const int entries = rank[w][threadIdx.x];
      rank[w][threadIdx.x] = sum;
      sum += entries;
    }
    const int in_tile = block_exclusive_sum(sum, total);
    for (int w = 0; w < radix_warps; w++) rank[w][threadIdx.x] += in_tile;
    start[threadIdx.x] = starts[threadIdx.x * tiles + tile] - in_tile;
    __syncthreads();

#pragma unroll
    for (int k = 0; k < radix_items; k++) {
      if (first + k * warp_size >= n) continue;
      const int to = rank[warp()][radix_digit(key[k], shift, mask)] + before[k];
      sorted_keys[to] = key[k];
      sorted_positions[to] = position[k];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < total; i += radix_threads) {
      const Key moved = sorted_keys[i];
      const int to = start[radix_digit(moved, shift, mask)] + i;
      to_keys[to] = moved;
      to_positions[to] = sorted_positions[i];
    }
    __syncthreads();
  }
}

template <class Key>
__global__ void mark_run_ends_kernel(const Key* keys, int32_t* ends, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) ends[i] = i + 1 < n && keys[i] != keys[i + 1];
}

// ---- launchers

// run[i] = how many different keys lie before keys[i] in a sorted array: equal keys have equal numbers, 0, 1, 2, ...
template <class Key>
void number_runs(const Key* keys, int32_t* run, int64_t n) {
  launch(mark_run_ends_kernel<Key>, grid_of((n + 255) / 256), 256, 0, keys, run, n);
  exclusive_scan(run, n);
}

// Room for n keys (uint32_t or uint64_t) and positions. A kernel of the caller fills keys() and positions(); sort() may run several
// times, on the less significant part of a compound key first. The pointers change with every sort().
template <class Key>
class RadixSort {
 public:
  explicit RadixSort(int64_t n) : n_(n), keys_a_(n), keys_b_(n), positions_a_(n), positions_b_(n) {
    CHECK(n <= INT32_MAX, "radix sort: more than 2^31 - 1 entries");
  }
  Key* keys() const { return swapped_ ? keys_b_.data() : keys_a_.data(); }
  int32_t* positions() const { return swapped_ ? positions_b_.data() : positions_a_.data(); }

  // Sorts by bits [first_bit, first_bit + bits) of the keys.
  void sort(int bits, int first_bit = 0) {
    const int64_t tiles = (n_ + radix_tile - 1) / radix_tile;
    if (tiles == 0) return;
    const Scratch<int32_t> count(tiles * radix_digits);
    for (int shift = first_bit; shift < first_bit + bits; shift += radix_bits) {
      const int left = first_bit + bits - shift, mask = left < radix_bits ? (1 << left) - 1 : radix_digits - 1;
      const Key* from = keys();
      const int32_t* from_positions = positions();
      swapped_ = !swapped_;
      launch(radix_count_kernel<Key>, grid_of(tiles), radix_threads, 0, from, count.data(), n_, tiles, shift, mask);
      exclusive_scan(count.data(), tiles * radix_digits);
      launch(radix_scatter_kernel<Key>, grid_of(tiles), radix_threads, 0, from, from_positions, keys(), positions(), count.data(), n_,
             tiles, shift, mask);
    }
  }

 private:
  int64_t n_;
  Scratch<Key> keys_a_, keys_b_;
  Scratch<int32_t> positions_a_, positions_b_;
  bool swapped_ = false;
};

}  // namespace galago::cuda
