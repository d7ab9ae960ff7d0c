// How a kernel is started, shares memory within a block, finds scratch space and reports a bad index. Every .cu file includes this
// header, so it compiles with nvcc and, under GALAGO_EMULATED, with g++ against emu/cuda_emu.h.
#pragma once
#include "../kernels.h"

#ifdef GALAGO_EMULATED
#include "emu/cuda_emu.h"  // also: launch, SHARED, DYNAMIC_SHARED
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
// A block's own memory: `SHARED(float[32], sums);`, in types without commas.
#define SHARED(type, name)            \
  using shared_type_of_##name = type; \
  __shared__ shared_type_of_##name name
// The memory whose size the launch states, aligned to 128 bytes: `DYNAMIC_SHARED(float, tile);`
#define DYNAMIC_SHARED(type, name)                                  \
  extern __shared__ __align__(128) unsigned char dynamic_shared_[]; \
  type* const name = reinterpret_cast<type*>(dynamic_shared_)
#endif

namespace galago::cuda {

using bfloat16 = __nv_bfloat16;

// A CUDA call that must succeed: throws galago::Error DEVICE_LOST with the statement, the place and CUDA's text; OutOfMemory where that is
// all there is to it (a kernel's code is brought to the device when it is first launched).
[[noreturn]] void cuda_failed(cudaError_t status, const char* statement, const char* file, int line);
#define CUDA_CHECK(statement)                                                                         \
  do {                                                                                                \
    const cudaError_t status_ = (statement);                                                          \
    if (status_ != cudaSuccess) ::galago::cuda::cuda_failed(status_, #statement, __FILE__, __LINE__); \
  } while (0)

// ---- of the device whose executor thread is running

cudaStream_t stream();      // its compute stream: every kernel and copy of this backend runs there, in order
int multiprocessors();      // 132 on an H200
int shared_memory_limit();  // bytes of dynamic shared memory that a block may ask for

// Blocks for `blocks` pieces of work: at most a few waves, and fewer when a test shrinks the grid. A kernel therefore loops:
// for (int64_t i = blockIdx.x; i < blocks; i += gridDim.x). What a piece is follows from shapes alone, never from the grid.
unsigned grid_of(int64_t blocks);

// Lets a kernel have that much dynamic shared memory, where it was not let before: without asking, CUDA gives 48 KB together with static.
void allow_shared_memory(const void* kernel, size_t bytes);

#ifndef GALAGO_EMULATED
// Starts `kernel` on the compute stream; nothing happens for an empty grid. `shared` is in bytes.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 0) allow_shared_memory(reinterpret_cast<const void*>(kernel), shared);
  kernel<<<grid, block, shared, stream()>>>(Parameters(arguments)...);
  CUDA_CHECK(cudaGetLastError());
}
#else
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 0) allow_shared_memory(reinterpret_cast<const void*>(kernel), shared);
  emu::launch(stream(), grid, block, shared, reinterpret_cast<const void*>(kernel), [=] { kernel(Parameters(arguments)...); });
  CUDA_CHECK(cudaGetLastError());
}
#endif

// Device memory for the time of one launcher. It is handed to the next one in stream order, so it may go out of scope at once.
class ScratchBlock {
 public:
  explicit ScratchBlock(size_t bytes);
  ~ScratchBlock();
  ScratchBlock(const ScratchBlock&) = delete;
  ScratchBlock& operator=(const ScratchBlock&) = delete;
  void* block() const { return block_; }

 private:
  void* block_;
  size_t bytes_;
};

template <class T>
class Scratch : ScratchBlock {
 public:
  explicit Scratch(int64_t count) : ScratchBlock(size_t(count) * sizeof(T)) {}
  T* data() const { return static_cast<T*>(block()); }
};

// Copies a launch's table (pointers, sizes) from host memory to the device, in stream order; `from` may change at once.
void upload(void* to, const void* from, size_t bytes);

// ---- indices out of range

// On the device: the first bad index since the last wait. The names are addresses of the host's literals.
struct IndexWord {
  int set;
  const char *op, *argument;
  long long position, value, bound;
};

// What a kernel needs to report one of its arguments: made by the launcher with literals, passed by value.
struct IndexReport {
  IndexWord* word;
  const char *op, *argument;
  long long bound;

  __device__ void operator()(long long position, long long value) const {
    if (atomicCAS(&word->set, 0, 1) != 0) return;
    word->op = op;
    word->argument = argument;
    word->position = position;
    word->value = value;
    word->bound = bound;
  }
};
IndexReport index_report(const char* op, const char* argument, int64_t bound);

// ---- dtypes

// Calls body with a zero of the tensor's type, float or bfloat16: `dispatch_float(x.dtype, [&]<class T>() { ... });`
template <class F>
void dispatch_float(DType dtype, F&& body) {
  switch (dtype) {
    case DType::float32: return body.template operator()<float>();
    case DType::bfloat16: return body.template operator()<bfloat16>();
    default: throw Error("DTYPE", std::string("cuda: expected float32 or bfloat16, received ") + name(dtype));
  }
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

}  // namespace galago::cuda
