// 16 bytes at a time: a pack of 4 floats or 8 bfloat16 values, computed on in float32.
#pragma once
#include "launch.cuh"

namespace galago::cuda {

template <class T>
constexpr int pack_width = 16 / int(sizeof(T));

template <class T>
struct alignas(16) Pack {
  T v[pack_width<T>];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {  // 16-byte aligned
#ifdef GALAGO_EMULATED
  emu::require_aligned(from, 16, "load_pack");
#endif
  return *reinterpret_cast<const Pack<T>*>(from);
}
template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
#ifdef GALAGO_EMULATED
  emu::require_aligned(to, 16, "store_pack");
#endif
  *reinterpret_cast<Pack<T>*>(to) = pack;
}

// Whether rows of `columns` elements at these addresses can be read in packs.
template <class T, class... Pointers>
bool packed(int64_t columns, Pointers... pointers) {
  return columns % pack_width<T> == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace galago::cuda
