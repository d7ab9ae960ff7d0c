// One tile of a matrix product by the instructions of Hopper: a producer warp, a ring of two stages, wgmma, a bulk store. Compiles for the
// emulator and, as a check of the instructions, with nvcc -gencode arch=compute_90a,code=sm_90a.
#include "../../tma.cuh"
#include "../../wgmma.cuh"

namespace galago::cuda {

constexpr int stages = 2, depth = 64;
enum class Planted { nothing, no_wait_for_load, no_wait_for_product, stage_reused_too_early };

// out (64 x N) = a (64 x K) b (N x K)T, or b (K x N) with B_TRANSPOSED
template <int N, bool B_TRANSPOSED, bool A_IN_REGISTERS, Planted FAULT>
__global__ void __launch_bounds__(256, 1)
    hopper_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap out, int k) {
  constexpr unsigned a_bytes = 64 * 128, b_bytes = N * 128;
  DYNAMIC_SHARED(unsigned char, raw);
  SHARED(Mbarrier[stages], full);
  SHARED(Mbarrier[stages], empty);
#ifdef GALAGO_EMULATED
  using emu::shared_address;
#endif
  unsigned char* const tiles = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const auto a_tile = [&](int step) { return tiles + step % stages * (a_bytes + b_bytes); };
  const auto b_tile = [&](int step) { return a_tile(step) + a_bytes; };
  const int steps = k / depth, thread = int(threadIdx.x);

  if (thread == 0) {
    for (int i = 0; i < stages; i++) init(full[i], 1), init(empty[i], 128);
    fence_init();
  }
  __syncthreads();

  if (thread >= 128) {
    give_registers<40>();
    if (thread == 128) {
      prefetch(a);
      for (int step = 0; step < steps; step++) {
        if (FAULT != Planted::stage_reused_too_early) wait(empty[step % stages], unsigned(step / stages % 2 ^ 1));
        arrive_expecting(full[step % stages], a_bytes + b_bytes);
        load_tile(a_tile(step), a, step * depth, 0, full[step % stages]);
        if (B_TRANSPOSED)
          for (int n = 0; n < N; n += 64) load_tile(b_tile(step) + n * 128, b, n, step * depth, full[step % stages]);
        else
          load_tile(b_tile(step), b, step * depth, 0, full[step % stages]);
      }
    }
  } else {
    take_registers<232>();
    float sums[N / 2];
    for (int step = 0; step < steps; step++) {
      if (FAULT != Planted::no_wait_for_load) wait(full[step % stages], unsigned(step / stages % 2));
      fence_products();
#pragma unroll
      for (int i = 0; i < depth / 16; i++) {
        const unsigned right = shared_address(b_tile(step));
        const uint64_t b16 = B_TRANSPOSED ? rows_along_n(right + i * 2048, 64 * 128) : rows_along_k(right + i * 32);
        if constexpr (A_IN_REGISTERS) {
          uint32_t fragment[4];
          const unsigned row = thread / 32 * 16 + thread % 16, chunk = i * 2 + thread % 32 / 16;
          load_matrices(fragment, a_tile(step) + swizzled_byte(row * 128 + chunk * 16));
          multiply<N, B_TRANSPOSED>(sums, fragment, b16, step + i > 0);
          wait_products<0>();  // the registers are used again
        } else {
          multiply<N, B_TRANSPOSED>(sums, rows_along_k(shared_address(a_tile(step)) + i * 32), b16, step + i > 0);
        }
      }
      commit_products();
      if (FAULT != Planted::no_wait_for_product || step + 1 < steps) wait_products<0>(sums);
      arrive(empty[step % stages]);
    }
    // Through shared memory, so that one thread can store the tile; the stages are free now.
    float* const staged = reinterpret_cast<float*>(tiles);
#pragma unroll
    for (int i = 0; i < N / 2; i++) staged[place_in_products(thread, i).row * N + place_in_products(thread, i).column] = sums[i];
    if (FAULT == Planted::no_wait_for_product) wait_products<0>();
  }
  fence_async_proxy();
  __syncthreads();
  if (thread == 0) {
    store_tile(out, 0, 0, tiles);
    commit_stores();
    wait_stores<0>();
  }
}

#ifdef GALAGO_EMULATED
}  // namespace galago::cuda
#include "cases.h"
namespace galago::cuda {
#endif

template <int N, bool B_TRANSPOSED = false, bool A_IN_REGISTERS = false, Planted FAULT = Planted::nothing>
static void run_hopper(const bfloat16* a, const bfloat16* b, float* out, unsigned k) {
  const auto map_a = tensor_map(a, {k, 64}, {2, k * 2}, {64, 64}, true);
  const auto map_b = B_TRANSPOSED ? tensor_map(b, {N, k}, {2, N * 2}, {64, 64}, true) : tensor_map(b, {k, N}, {2, k * 2}, {64, N}, true);
  const auto map_out = tensor_map(out, {N, 64}, {4, N * 4}, {N, 64}, false);
  launch(hopper_kernel<N, B_TRANSPOSED, A_IN_REGISTERS, FAULT>, 1, 256, stages * (64 + std::max(N, 64)) * 128 + 1024, map_a, map_b, map_out,
         int(k));
}

#ifdef GALAGO_EMULATED
template <int N, bool B_TRANSPOSED = false, bool A_IN_REGISTERS = false, Planted FAULT = Planted::nothing>
static std::string hopper() {
  constexpr unsigned k = 320;
  Buffer<bfloat16> a(64 * k, [](size_t i) { return float(i % 13) - 6; }), b(N * k, [](size_t i) { return float(i % 11) - 5; });
  Buffer<float> out(64 * N);
  run_hopper<N, B_TRANSPOSED, A_IN_REGISTERS, FAULT>(a.device, b.device, out.device, k);
  return outcome([&] {
    return out.equals([&](size_t i) {
      float sum = 0;
      for (size_t j = 0; j < k; j++) sum += float(a.host[i / N * k + j]) * float(b.host[B_TRANSPOSED ? j * N + i % N : i % N * k + j]);
      return sum;
    });
  });
}

std::vector<Case> hopper_cases() {
  return {{"wgmma 8", hopper<8>},
          {"wgmma 16", hopper<16>},
          {"wgmma 32", hopper<32>},
          {"wgmma 64", hopper<64>},
          {"wgmma 128", hopper<128>},
          {"wgmma 256", hopper<256>},
          {"wgmma 64, b transposed", hopper<64, true>},
          {"wgmma 128, b transposed", hopper<128, true>},
          {"wgmma 64, a in registers", hopper<64, false, true>}};
}

std::vector<Case> hopper_fault_cases() {
  return {{"tile read before it came", hopper<64, false, false, Planted::no_wait_for_load>},
          {"product not waited for", hopper<64, false, false, Planted::no_wait_for_product>},
          {"stage reused too early", hopper<64, false, false, Planted::stage_reused_too_early>}};
}
#else
template void run_hopper<8>(const bfloat16*, const bfloat16*, float*, unsigned);
template void run_hopper<256>(const bfloat16*, const bfloat16*, float*, unsigned);
#endif

}  // namespace galago::cuda
