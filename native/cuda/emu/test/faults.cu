// Kernels with one planted fault each.
#include "../../async_copy.cuh"
#include "../../mma.cuh"
#include "../../reduce.cuh"
#include "../../vec.cuh"
#include "cases.h"

namespace galago::cuda {

// ---- shared memory

__global__ void write_past_the_end_kernel(float* out) {
  SHARED(float[32], values);
  values[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void write_before_the_start_kernel(float* out) {
  SHARED(float[32], values);
  values[int(threadIdx.x) - 1] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void write_past_dynamic_memory_kernel(float* out) {
  DYNAMIC_SHARED(float, values);
  values[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void read_past_the_end_kernel(float* out) {
  SHARED(float[32], values);
  values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x + 1];
}

__global__ void read_uninitialised_kernel(float* out) {
  SHARED(float[32], values);
  if (threadIdx.x < 31) values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

// The second block must not see what the first one left.
__global__ void read_of_another_block_kernel(float* out) {
  SHARED(float[32], values);
  if (blockIdx.x == 0) values[threadIdx.x] = 1;
  __syncthreads();
  if (gridDim.x == 2) out[blockIdx.x * 32 + threadIdx.x] = values[threadIdx.x];
}

__global__ void too_much_static_memory_kernel(float* out) {
  SHARED(float[12 * 1024 + 1], values);
  values[threadIdx.x] = 1;
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void dynamic_memory_kernel(float* out) {
  DYNAMIC_SHARED(float, values);
  values[threadIdx.x] = 1;
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void empty_kernel(float*) {}

// ---- barriers

// Each thread reads what its neighbour wrote, in warps that no barrier orders.
__global__ void missing_barrier_kernel(float* out) {
  SHARED(float[64], values);
  values[threadIdx.x] = float(threadIdx.x);
  __syncwarp();
  out[threadIdx.x] = values[(threadIdx.x + 32) % 64];
}

__global__ void missing_warp_barrier_kernel(float* out) {
  SHARED(float[32], values);
  values[threadIdx.x] = float(threadIdx.x);
  out[threadIdx.x] = values[(threadIdx.x + 1) % 32];
}

// The second sum overwrites what slow warps still read of the first.
__global__ void reused_too_early_kernel(float* out) {
  SHARED(float[2], sums);
  const float first = warp_sum(float(threadIdx.x));
  if (lane() == 0) sums[warp()] = first;
  __syncthreads();
  const float whole = sums[0] + sums[1];
  const float second = warp_sum(1.0f);
  if (lane() == 0) sums[warp()] = second;
  __syncthreads();
  out[threadIdx.x] = whole + sums[0] + sums[1];
}

__global__ void different_barriers_kernel(float* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void return_before_the_barrier_kernel(float* out) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void deadlock_kernel(float* out) {
  float x = 1;
  if (threadIdx.x < 16)
    __syncthreads();
  else
    x = __shfl_xor_sync(full_mask, x, 1);
  out[threadIdx.x] = x;
}

__global__ void spin_for_ever_kernel(int* flag) {
  while (*static_cast<volatile int*>(flag) == 7) __nanosleep(100);
}

// ---- masks

__global__ void missing_from_its_mask_kernel(float* out) { out[threadIdx.x] = __shfl_sync(0x7fffffffu, 1.0f, 0); }

__global__ void mask_names_a_returned_lane_kernel(float* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = warp_sum(1.0f);
}

__global__ void returns_while_others_wait_kernel(float* out) {
  if (threadIdx.x != 5) out[threadIdx.x] = warp_sum(1.0f);
}

__global__ void masks_differ_kernel(float* out) {
  const unsigned mask = threadIdx.x % 2 ? full_mask : 0x7fffffffu;
  out[threadIdx.x] = float(__ballot_sync(mask, 1));
}

__global__ void instructions_differ_kernel(float* out) {
  out[threadIdx.x] = threadIdx.x < 16 ? __shfl_sync(full_mask, 1.0f, 0) : float(__any_sync(full_mask, 1));
}

__global__ void reads_outside_the_mask_kernel(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 16);
}

__global__ void active_mask_kernel(unsigned* out) { out[threadIdx.x] = __activemask(); }

__global__ void partial_warp_kernel(float* out) { out[threadIdx.x] = warp_sum(1.0f); }

// ---- addresses

__global__ void misaligned_row_kernel(float* out) {
  SHARED(bfloat16[32 * 8 + 8], tile);
  for (int i = int(threadIdx.x); i < 32 * 8 + 8; i += 32) tile[i] = 1.0f;
  __syncwarp();
  uint32_t fragment[4];
  load_matrices(fragment, &tile[threadIdx.x * 8 + 1]);
  out[threadIdx.x] = float(fragment[0]);
}

__global__ void row_outside_shared_memory_kernel(const bfloat16* rows, float* out) {
  uint32_t fragment[4];
  load_matrices(fragment, rows + threadIdx.x * 8);
  out[threadIdx.x] = float(fragment[0]);
}

__global__ void misaligned_pack_kernel(const float* x, float* out) {
  const Pack<float> pack = load_pack(x + threadIdx.x);
  out[threadIdx.x] = pack.v[0];
}

__global__ void misaligned_hinted_load_kernel(const float* x, float* out) {
  out[threadIdx.x] = __ldcs(reinterpret_cast<const float4*>(x + 1)).x;
}

__global__ void null_pointer_kernel(float* out) { out[threadIdx.x] = 1; }

__global__ void stack_overflow_kernel(int* out, int at) {
  volatile char large[128 * 1024];
  large[at] = 1;
  __syncwarp();
  *out = large[at];
}

__global__ void division_by_zero_kernel(int* out, int zero) { out[threadIdx.x] = (int(threadIdx.x) + 100) / zero; }

// ---- cp.async

template <bool WAIT, int BYTES = 16>
__global__ void copy_kernel(const float* x, float* out, int shift) {
  SHARED(float4[33], tile);
  float* const to = &tile[threadIdx.x].x;
  copy_async<BYTES>(to, x + 4 * threadIdx.x + shift);
  commit_copies();
  if (WAIT) wait_copies<0>();
  out[threadIdx.x] = *to;
}

template <int PENDING>
__global__ void ring_kernel(const float* x, float* out) {
  SHARED(float4[2][32], ring);
  const int i = int(threadIdx.x);
  copy_async<16>(&ring[0][i], x + 4 * i), commit_copies();
  copy_async<16>(&ring[1][i], x + 4 * (32 + i)), commit_copies();
  wait_copies<PENDING>();
  out[i] = ring[0][i].x;
}

// A warp starts to fill the tile again while the other one reads it: a barrier is missing before the second copy.
__global__ void refill_kernel(const float* x, float* out) {
  SHARED(float4[64], tile);
  const int i = int(threadIdx.x);
  copy_async<16>(&tile[i], x + 4 * i), commit_copies(), wait_copies<0>();
  __syncthreads();
  copy_async<16>(&tile[i], x), commit_copies();
  out[i ^ 32] = tile[i ^ 32].x;
  __syncthreads();
  wait_copies<0>();
}

// ---- launchers

template <class... Parameters>
static std::string run(void (*kernel)(float*, Parameters...), unsigned threads, size_t shared = 0, unsigned blocks = 1) {
  Buffer<float> out(std::max(64u, threads * blocks));
  launch(kernel, blocks, threads, shared, out.device);
  return outcome([] { return true; });
}

static std::string run_missing_barrier() {
  Buffer<float> out(64);
  launch(missing_barrier_kernel, 1, 64, 0, out.device);
  return outcome([&] { return out.equals([](size_t i) { return (i + 32) % 64; }); });
}

template <class Kernel>
static std::string run_with_input(Kernel kernel, int shift) {
  Buffer<float> x(64 * 4 + 4, [](size_t i) { return float(i); }), out(32);
  if constexpr (std::is_invocable_v<Kernel, const float*, float*, int>)
    launch(kernel, 1, 32, 0, x.device, out.device, shift);
  else
    launch(kernel, 1, 32, 0, x.device + shift, out.device);
  return outcome([&] { return out.equals([](size_t i) { return 4 * i; }); });
}

std::vector<Case> fault_cases() {
  return {
      {"write past the end", [] { return run(write_past_the_end_kernel, 32); }},
      {"write before the start", [] { return run(write_before_the_start_kernel, 32); }},
      {"write past dynamic memory", [] { return run(write_past_dynamic_memory_kernel, 32, 128); }},
      {"read past the end",
       [] {
         Buffer<float> out(32);
         launch(read_past_the_end_kernel, 1, 32, 0, out.device);
         return outcome([&] { return out.equals([](size_t) { return 1; }); });
       }},
      {"read uninitialised",
       [] {
         Buffer<float> out(32);
         launch(read_uninitialised_kernel, 1, 32, 0, out.device);
         return outcome([&] { return out.equals([](size_t) { return 1; }) || !std::isnan(out.host[31]); });
       }},
      {"read of another block",
       [] {
         Buffer<float> out(64);
         launch(read_of_another_block_kernel, 2, 32, 0, out.device);
         return outcome([&] { return out.equals([](size_t) { return 1; }); });
       }},
      {"too much static memory", [] { return run(too_much_static_memory_kernel, 32); }},
      {"no dynamic memory", [] { return run(dynamic_memory_kernel, 32); }},
      {"too much dynamic memory", [] { return run(dynamic_memory_kernel, 32, 227 * 1024 + 1); }},
      {"too many threads", [] { return run(empty_kernel, 1025); }},
      {"too many blocks",
       [] {
         launch(empty_kernel, dim3(1, 65536), 1, 0, static_cast<float*>(nullptr));
         return outcome([] { return true; });
       }},
      {"missing barrier", run_missing_barrier},
      {"missing warp barrier",
       [] {
         Buffer<float> out(32);
         launch(missing_warp_barrier_kernel, 1, 32, 0, out.device);
         return outcome([&] { return out.equals([](size_t i) { return (i + 1) % 32; }); });
       }},
      {"reused too early",
       [] {
         Buffer<float> out(64);
         launch(reused_too_early_kernel, 1, 64, 0, out.device);
         return outcome([&] { return out.equals([](size_t) { return 63 * 32 + 64; }); });
       }},
      {"different barriers", [] { return run(different_barriers_kernel, 64); }},
      {"return before the barrier", [] { return run(return_before_the_barrier_kernel, 64); }},
      {"deadlock", [] { return run(deadlock_kernel, 32); }},
      {"spin for ever",
       [] {
         Buffer<int> flag(1, [](size_t) { return 7; });
         launch(spin_for_ever_kernel, 1, 1, 0, flag.device);
         return outcome([] { return true; });
       }},
      {"missing from its mask", [] { return run(missing_from_its_mask_kernel, 32); }},
      {"mask names a returned lane", [] { return run(mask_names_a_returned_lane_kernel, 32); }},
      {"returns while others wait", [] { return run(returns_while_others_wait_kernel, 32); }},
      {"masks differ", [] { return run(masks_differ_kernel, 32); }},
      {"instructions differ", [] { return run(instructions_differ_kernel, 32); }},
      {"reads outside the mask", [] { return run(reads_outside_the_mask_kernel, 32); }},
      {"active mask",
       [] {
         Buffer<unsigned> out(32);
         launch(active_mask_kernel, 1, 32, 0, out.device);
         return outcome([] { return true; });
       }},
      {"partial warp", [] { return run(partial_warp_kernel, 48); }},
      {"misaligned row", [] { return run(misaligned_row_kernel, 32); }},
      {"row outside shared memory",
       [] {
         Buffer<bfloat16> rows(256);
         Buffer<float> out(32);
         launch(row_outside_shared_memory_kernel, 1, 32, 0, rows.device, out.device);
         return outcome([] { return true; });
       }},
      {"misaligned pack", [] { return run_with_input(misaligned_pack_kernel, 0); }},
      {"misaligned hinted load", [] { return run_with_input(misaligned_hinted_load_kernel, 0); }},
      {"null pointer",
       [] {
         launch(null_pointer_kernel, 1, 32, 0, static_cast<float*>(nullptr));
         return outcome([] { return true; });
       }},
      {"stack overflow",
       [] {
         Buffer<int> out(1);
         launch(stack_overflow_kernel, 1, 32, 0, out.device, 5);
         return outcome([] { return true; });
       }},
      {"division by zero",
       [] {
         Buffer<int> out(32);
         launch(division_by_zero_kernel, 1, 32, 0, out.device, 0);
         return outcome([] { return true; });
       }},
      {"copy read before its wait", [] { return run_with_input(copy_kernel<false>, 0); }},
      {"copy from a misaligned address", [] { return run_with_input(copy_kernel<true>, 1); }},
      {"ring read one group too early", [] { return run_with_input(ring_kernel<2>, 0); }},
      {"copy over what is still read",
       [] {
         Buffer<float> x(64 * 4, [](size_t i) { return float(i); }), out(64);
         launch(refill_kernel, 1, 64, 0, x.device, out.device);
         return outcome([&] { return out.equals([](size_t i) { return 4 * i; }); });
       }},
  };
}

}  // namespace galago::cuda
