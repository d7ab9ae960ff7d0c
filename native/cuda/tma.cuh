// Bulk copies by the tensor memory accelerator of Hopper (sm_90 and later): one thread starts the copy of a whole tile. Loads report to an
// mbarrier in shared memory, on which the consumers wait; stores form groups, which their thread waits for.
//
// A consumer's next use of a stage: wait(full, parity) -> read -> arrive(empty). A producer's: wait(empty, parity ^ 1) ->
// arrive_expecting(full, bytes) -> load_tile(...). Both parities start at 0 and flip each time around the ring.
#pragma once
#ifndef GALAGO_EMULATED
#include <cuda.h>
#endif

#include "launch.cuh"

namespace galago::cuda {

// ---- mbarrier: counts arrivals and bytes; when both are complete its phase flips

using Mbarrier = uint64_t;  // in shared memory

#ifndef GALAGO_EMULATED
__device__ __forceinline__ unsigned shared_address(const void* pointer) { return unsigned(__cvta_generic_to_shared(pointer)); }
#endif

__device__ __forceinline__ void init(Mbarrier& barrier, unsigned arrivals) {
#ifdef GALAGO_EMULATED
  emu::start_barrier(barrier, arrivals);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
#endif
}

// After init, before the barrier that lets other threads and the copy engine use it.
__device__ __forceinline__ void fence_init() {
#ifndef GALAGO_EMULATED
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void arrive(Mbarrier& barrier) {
#ifdef GALAGO_EMULATED
  emu::arrive_at_barrier(barrier, 0);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
#endif
}

// One arrival, and the phase also waits for so many bytes.
__device__ __forceinline__ void arrive_expecting(Mbarrier& barrier, unsigned bytes) {
#ifdef GALAGO_EMULATED
  emu::arrive_at_barrier(barrier, bytes);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes) : "memory");
#endif
}

// Whether the phase of this parity has ended; the device gives up after a while, the emulator does not.
__device__ __forceinline__ bool try_wait(Mbarrier& barrier, unsigned parity) {
#ifdef GALAGO_EMULATED
  emu::wait_for_barrier(barrier, parity);
  return true;
#else
  unsigned done;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(shared_address(&barrier)), "r"(parity)
               : "memory");
  return done;
#endif
}

__device__ __forceinline__ void wait(Mbarrier& barrier, unsigned parity) {
  while (!try_wait(barrier, parity)) {}
}

// What this thread wrote to shared memory becomes visible to bulk copies and to wgmma that start after the next barrier.
__device__ __forceinline__ void fence_async_proxy() {
#ifndef GALAGO_EMULATED
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- one dimension: both addresses and the size are multiples of 16 bytes

__device__ __forceinline__ void load_bulk(void* to_shared, const void* from, unsigned bytes, Mbarrier& barrier) {
#ifdef GALAGO_EMULATED
  emu::require_aligned(to_shared, 16, "cp.async.bulk");
  emu::require_aligned(from, 16, "cp.async.bulk");
  if (bytes % 16 != 0) emu::fault("cp.async.bulk of %u bytes", bytes);
  emu::shared_address(to_shared, bytes);
  std::memset(to_shared, 0xff, bytes);  // as copy_async
  emu::defer_bulk([=, &barrier] {
    std::memcpy(to_shared, from, bytes);
    emu::bytes_came(barrier, bytes);
  });
#else
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to_shared)),
               "l"(from), "r"(bytes), "r"(shared_address(&barrier))
               : "memory");
#endif
}

__device__ __forceinline__ void store_bulk(void* to, const void* from_shared, unsigned bytes) {
#ifdef GALAGO_EMULATED
  emu::require_aligned(to, 16, "cp.async.bulk");
  emu::require_aligned(from_shared, 16, "cp.async.bulk");
  if (bytes % 16 != 0) emu::fault("cp.async.bulk of %u bytes", bytes);
  emu::shared_address(from_shared, bytes);
  emu::defer_store([=] { std::memcpy(to, from_shared, bytes); });
#else
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from_shared)), "r"(bytes)
               : "memory");
#endif
}

__device__ __forceinline__ void commit_stores() {
#ifdef GALAGO_EMULATED
  emu::commit_stores();
#else
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Until at most PENDING of this thread's groups still read shared memory.
template <int PENDING>
__device__ __forceinline__ void wait_stores() {
#ifdef GALAGO_EMULATED
  emu::wait_stores(PENDING);
#else
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
#endif
}

// ---- two and three dimensions: a tensor map describes the tensor and its tiles. Elements outside the tensor read as zero and are not
// written. A kernel takes it as `const __grid_constant__ TensorMap`.

struct alignas(128) TensorMap {
#ifdef GALAGO_EMULATED
  emu::TileMap map;
#else
  CUtensorMap map;
#endif
};

// sizes and box in elements, innermost dimension first; strides in bytes of dimensions 1 and up, multiples of 16; base aligned to 16.
// With `swizzled`, rows of a tile are 128 bytes whose 16-byte chunks change places by address bits 7 to 9, as wgmma reads them.
template <class T, int RANK>
TensorMap tensor_map(const T* base, const uint64_t (&sizes)[RANK], const uint64_t (&strides)[RANK], const unsigned (&box)[RANK],
                     bool swizzled) {
  static_assert(RANK == 2 || RANK == 3);
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, bfloat16>);
  const bool aligned = reinterpret_cast<uintptr_t>(base) % 16 == 0 && box[0] * sizeof(T) % 16 == 0;
  bool fits = !swizzled || box[0] * sizeof(T) <= 128;
  for (int i = 0; i < RANK; i++) fits = fits && box[i] >= 1 && box[i] <= 256 && (i == 0 || strides[i] % 16 == 0);
  CHECK(aligned && fits, "tensor_map: a base, stride or box that the copy engine does not take");
  TensorMap result;
#ifdef GALAGO_EMULATED
  result.map = {const_cast<char*>(reinterpret_cast<const char*>(base)), RANK, int(sizeof(T)), swizzled, {}, {}, {}};
  for (int i = 0; i < RANK; i++) {
    result.map.size[i] = sizes[i];
    result.map.box[i] = box[i];
    if (i > 0) result.map.stride[i - 1] = strides[i];
  }
#else
  // The driver's function, found at run time: the backend does not link against the driver.
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  CHECK(found == cudaDriverEntryPointSuccess, "tensor_map: the driver has no cuTensorMapEncodeTiled");
  const cuuint32_t steps[3] = {1, 1, 1};
  const auto status = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
      &result.map, std::is_same_v<T, float> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, RANK,
      const_cast<T*>(base), reinterpret_cast<const cuuint64_t*>(sizes), reinterpret_cast<const cuuint64_t*>(strides + 1), box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(status == CUDA_SUCCESS, "tensor_map: cuTensorMapEncodeTiled refused");
#endif
  return result;
}

// The tile whose first element is (y, x). `to_shared` is aligned to 128 bytes (1024 with the swizzle).
__device__ __forceinline__ void load_tile(void* to_shared, const TensorMap& map, int x, int y, Mbarrier& barrier) {
#ifdef GALAGO_EMULATED
  emu::load_tile(to_shared, map.map, {x, y, 0}, barrier);
#else
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                   shared_address(to_shared)),
               "l"(&map.map), "r"(x), "r"(y), "r"(shared_address(&barrier))
               : "memory");
#endif
}

__device__ __forceinline__ void load_tile(void* to_shared, const TensorMap& map, int x, int y, int z, Mbarrier& barrier) {
#ifdef GALAGO_EMULATED
  emu::load_tile(to_shared, map.map, {x, y, z}, barrier);
#else
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
                   shared_address(to_shared)),
               "l"(&map.map), "r"(x), "r"(y), "r"(z), "r"(shared_address(&barrier))
               : "memory");
#endif
}

__device__ __forceinline__ void store_tile(const TensorMap& map, int x, int y, const void* from_shared) {
#ifdef GALAGO_EMULATED
  emu::store_tile(map.map, {x, y, 0}, from_shared);
#else
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map.map), "r"(x), "r"(y),
               "r"(shared_address(from_shared))
               : "memory");
#endif
}

__device__ __forceinline__ void store_tile(const TensorMap& map, int x, int y, int z, const void* from_shared) {
#ifdef GALAGO_EMULATED
  emu::store_tile(map.map, {x, y, z}, from_shared);
#else
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&map.map), "r"(x), "r"(y),
               "r"(z), "r"(shared_address(from_shared))
               : "memory");
#endif
}

__device__ __forceinline__ void prefetch(const TensorMap& map) {
#ifndef GALAGO_EMULATED
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map.map) : "memory");
#endif
}

// ---- registers of a warpgroup's role: what a producer does not need, consumers can have

template <int COUNT>
__device__ __forceinline__ void give_registers() {
  static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256);
#ifndef GALAGO_EMULATED
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}
template <int COUNT>
__device__ __forceinline__ void take_registers() {
  static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256);
#ifndef GALAGO_EMULATED
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

}  // namespace galago::cuda
