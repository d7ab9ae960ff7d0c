// Rows moved as bytes: the widest words that their length and addresses allow, and what a table of vectors may hold.
#pragma once
#include <type_traits>

#include "reduce.cuh"
#include "vec.cuh"

namespace galago::cuda {

// `dispatch_words(row_bytes, [&]<class Word>() { ... }, pointers...);` with rows of row_bytes / sizeof(Word) words, aligned everywhere.
template <class F, class... Pointers>
void dispatch_words(int64_t row_bytes, F&& body, Pointers... pointers) {
  const uint64_t bits = (uint64_t(row_bytes) | ... | reinterpret_cast<uintptr_t>(pointers));
  if (bits % 16 == 0) return body.template operator()<Pack<uint32_t>>();
  if (bits % 4 == 0) return body.template operator()<uint32_t>();
  body.template operator()<uint16_t>();
}

// Up to 32 rows that follow each other in `out`: row r comes from the address that lane r holds, null for a zero row. Neighbouring lanes
// copy neighbouring words, 8 in flight. All lanes call.
template <class Word>
__device__ __forceinline__ void copy_rows_of_warp(const Word* from, Word* out, int rows, int64_t words) {
  constexpr int flight = 8;
  const int64_t total = rows * words;
  for (int64_t first = 0; first < total; first += warp_size * flight) {
    Word word[flight];
#pragma unroll
    for (int k = 0; k < flight; k++) {
      const int64_t i = first + k * warp_size + lane(), row = i < total ? i / words : 0;
      const auto address = __shfl_sync(full_mask, reinterpret_cast<unsigned long long>(from), int(row));
      word[k] = i < total && address ? reinterpret_cast<const Word*>(address)[i - row * words] : Word{};
    }
#pragma unroll
    for (int k = 0; k < flight; k++) {
      const int64_t i = first + k * warp_size + lane();
      if (i < total) out[i] = word[k];
    }
  }
}

// One row. Neighbouring lanes copy neighbouring words.
template <class Word>
__device__ __forceinline__ void copy_row_of_warp(const Word* from, Word* to, int64_t words) {
  for (int64_t w = lane(); w < words; w += warp_size) to[w] = from[w];
}

// Whether a row is finite and not all zero, decided by bits as on the CPU: Bits is uint16_t for bfloat16, uint32_t for float32. All
// lanes call and receive the answer.
template <class Bits>
__device__ __forceinline__ bool usable_row_of_warp(const Bits* row, int64_t D) {
  constexpr Bits magnitude = Bits(Bits(~Bits(0)) >> 1), infinity = sizeof(Bits) == 2 ? Bits(0x7f80) : Bits(0x7f800000u);
  bool any = false, bad = false;
  for (int64_t d = lane(); d < D; d += warp_size) {
    const Bits value = row[d] & magnitude;
    any = any || value != 0;
    bad = bad || value >= infinity;
  }
  return __any_sync(full_mask, any) && !__any_sync(full_mask, bad);
}

// `dispatch_bits(dtype, [&]<class Bits>() { ... });`
template <class F>
void dispatch_bits(DType dtype, F&& body) {
  dispatch_float(dtype, [&]<class T>() { body.template operator()<std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>>(); });
}

// Where `key` stands in keys[0 .. count), ascending and distinct, or -1.
template <class Key>
__device__ __forceinline__ int64_t find_sorted(const Key* keys, int64_t count, Key key) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < key)
      low = middle + 1;
    else
      high = middle;
  }
  return low < count && keys[low] == key ? low : -1;
}

}  // namespace galago::cuda
