// Kernels that are right: they must give the same bits in every order of threads.
#include <cmath>

#include "../../async_copy.cuh"
#include "../../mma.cuh"
#include "../../reduce.cuh"
#include "../../vec.cuh"
#include "cases.h"

namespace galago::cuda {

__global__ void layer_norm_kernel(const float* x, float* y, int columns) {
  for (int row = int(blockIdx.x); row < 7; row += int(gridDim.x)) {
    const float* from = x + row * columns;
    float sum = 0, squares = 0;
    for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) sum += from[i];
    const float mean = block_sum(sum) / float(columns);
    for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) squares += (from[i] - mean) * (from[i] - mean);
    const float rstd = rsqrtf(block_sum(squares) / float(columns) + 1e-5f);
    for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) y[row * columns + i] = (from[i] - mean) * rstd;
  }
}

static std::string layer_norm() {
  constexpr int columns = 333;
  Buffer<float> x(7 * columns, [](size_t i) { return std::sin(float(i * i % 1009)); }), wide(7 * columns), narrow(7 * columns);
  launch(layer_norm_kernel, 7, 256, 0, x.device, wide.device, columns);
  launch(layer_norm_kernel, 2, 256, 0, x.device, narrow.device, columns);
  return outcome([&] {
    wide.read();
    for (int row = 0; row < 7; row++) {
      double mean = 0, squares = 0;
      for (int i = 0; i < columns; i++) mean += x.host[row * columns + i] / columns;
      for (int i = 0; i < columns; i++) squares += std::pow(x.host[row * columns + i] - mean, 2) / columns;
      for (int i = 0; i < columns; i++)
        if (std::abs((x.host[row * columns + i] - mean) / std::sqrt(squares + 1e-5) - wide.host[row * columns + i]) > 1e-5) return false;
    }
    return narrow.equals([&](size_t i) { return wide.host[i]; });
  });
}

// One object per place in the source and instantiation: the two calls of a helper share theirs, two instantiations do not.
template <int STEP>
__device__ int neighbour(int value) {
  SHARED(int[64], values);
  __syncthreads();
  values[threadIdx.x] = value;
  __syncthreads();
  return values[(threadIdx.x + STEP) % 64];
}

__global__ void neighbours_kernel(int* out, size_t* distance) {
  const int i = int(threadIdx.x);
  SHARED(float[32][33], tile);
  tile[i % 32][i / 32] = 0;
  out[i] = neighbour<1>(i) + neighbour<1>(2 * i) + neighbour<2>(i);
  if (i == 0) *distance = sizeof tile;
}

static std::string neighbours() {
  Buffer<int> out(64);
  Buffer<size_t> distance(1);
  launch(neighbours_kernel, 1, 64, 0, out.device, distance.device);
  return outcome([&] {
    return out.equals([](size_t i) { return (i + 1) % 64 * 3 + (i + 2) % 64; }) && distance.equals([](size_t) { return 32 * 33 * 4; });
  });
}

__global__ void transpose_kernel(const float* x, float* y) {
  SHARED(float[32][33], tile);
  for (unsigned row = threadIdx.y; row < 32; row += blockDim.y) tile[row][threadIdx.x] = x[row * 32 + threadIdx.x];
  __syncthreads();
  for (unsigned row = threadIdx.y; row < 32; row += blockDim.y) y[row * 32 + threadIdx.x] = tile[threadIdx.x][row];
}

static std::string transpose() {
  Buffer<float> x(1024, [](size_t i) { return float(i); }), y(1024);
  launch(transpose_kernel, 1, dim3(32, 8), 0, x.device, y.device);
  return outcome([&] { return y.equals([](size_t i) { return i % 32 * 32 + i / 32; }); });
}

// out (16 x 8) = a (16 x 64) b (64 x 8)T in four stages of 16, through a ring of two
__global__ void product_kernel(const bfloat16* a, const bfloat16* b, float* out) {
  SHARED(uint4[2][24][2], ring);  // 16 rows of a and 8 of b, each of 16 elements
  const int lane = int(threadIdx.x);
  const auto fetch = [&](int stage) {
    for (int i = lane; i < 48; i += 32) {
      const int row = i / 2, chunk = i % 2;
      const bfloat16* from = row < 16 ? a + row * 64 : b + (row - 16) * 64;
      copy_async<16>(&ring[stage % 2][row][chunk], from + stage * 16 + chunk * 8);
    }
  };
  fetch(0), commit_copies();
  float sums[4] = {};
  for (int stage = 0; stage < 4; stage++) {
    if (stage < 3) fetch(stage + 1);
    commit_copies();
    wait_copies<1>();
    __syncwarp();
    uint32_t left[4], right[2];
    load_matrices(left, &ring[stage % 2][lane % 16][lane / 16]);
    load_matrices(right, &ring[stage % 2][16 + lane % 8][lane / 8 % 2]);
    mma(sums, left, right);
    __syncwarp();
  }
  for (int i = 0; i < 4; i++) out[place_in_sums(lane, i).row * 8 + place_in_sums(lane, i).column] = sums[i];
}

static std::string product() {
  Buffer<bfloat16> a(16 * 64, [](size_t i) { return float(i % 13) - 6; }), b(8 * 64, [](size_t i) { return float(i % 11) - 5; });
  Buffer<float> out(16 * 8);
  launch(product_kernel, 1, 32, 0, a.device, b.device, out.device);
  return outcome([&] {
    return out.equals([&](size_t i) {
      float sum = 0;
      for (size_t k = 0; k < 64; k++) sum += float(a.host[i / 8 * 64 + k]) * float(b.host[i % 8 * 64 + k]);
      return sum;
    });
  });
}

__global__ void exchanges_kernel(unsigned* out) {
  const int lane = int(threadIdx.x);
  unsigned hash = 0;
  const auto add = [&](unsigned value) { hash = hash * 31 + value; };
  add(__shfl_up_sync(full_mask, unsigned(lane), 3));
  add(__shfl_down_sync(full_mask, unsigned(lane), 5, 8));
  add(__shfl_xor_sync(full_mask, unsigned(lane), 9, 16));
  add(__shfl_sync(full_mask, unsigned(lane), 2, 4));
  add(__ballot_sync(full_mask, lane % 3 == 0));
  add(__match_any_sync(full_mask, lane % 5));
  add(unsigned(__any_sync(full_mask, lane == 31)) * 2 + unsigned(__all_sync(full_mask, lane < 31)));
  add(__reduce_max_sync(full_mask, unsigned(lane ^ 21)));
  // Two halves of a warp that take different ways
  if (lane < 16) {
    for (int i = 0; i < 3; i++) add(__shfl_xor_sync(0x0000ffffu, unsigned(lane), 1 << i));
  } else {
    add(__popc(__ballot_sync(0xffff0000u, lane > 20)));
  }
  __syncwarp();
  out[lane] = hash;
}

static std::string exchanges() {
  Buffer<unsigned> out(32);
  launch(exchanges_kernel, 1, 32, 0, out.device);
  return outcome([&] {
    return out.equals([](size_t index) {
      const int lane = int(index);
      unsigned hash = 0;
      const auto add = [&](unsigned value) { hash = hash * 31 + value; };
      add(unsigned(lane >= 3 ? lane - 3 : lane));
      add(unsigned(lane % 8 + 5 < 8 ? lane + 5 : lane));
      add(unsigned(lane ^ 9));
      add(unsigned(lane / 4 * 4 + 2));
      unsigned threes = 0, same = 0;
      for (int i = 0; i < 32; i++) threes |= unsigned(i % 3 == 0) << i, same |= unsigned(i % 5 == lane % 5) << i;
      add(threes);
      add(same);
      add(2);
      add(31);
      if (lane < 16)
        for (int i = 0; i < 3; i++) add(unsigned(lane ^ 1 << i));
      else
        add(11);
      return hash;
    });
  });
}

__global__ void tickets_kernel(unsigned* counter, unsigned* seen, unsigned long long* sum) {
  const unsigned ticket = atomicAdd(counter, 1u);
  atomicOr(&seen[ticket / 32], 1u << ticket % 32);
  atomicAdd(sum, (unsigned long long)ticket);
}

static std::string tickets() {
  Buffer<unsigned> counter(1, [](size_t) { return 0; }), seen(8, [](size_t) { return 0; });
  Buffer<unsigned long long> sum(1, [](size_t) { return 0; });
  launch(tickets_kernel, 4, 64, 0, counter.device, seen.device, sum.device);
  return outcome([&] { return seen.equals([](size_t) { return ~0u; }) && sum.equals([](size_t) { return 255 * 256 / 2; }); });
}

// Warp 1 waits for what warp 0 writes, without a barrier.
__global__ void flag_kernel(volatile int* out) {
  SHARED(int[2], box);
  volatile int* const flag = box;
  if (threadIdx.x == 0) flag[0] = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    flag[1] = 42;
    __threadfence_block();
    flag[0] = 1;
  }
  if (threadIdx.x == 32) {
    while (flag[0] == 0) __nanosleep(20);
    *out = flag[1];
  }
}

static std::string flag() {
  Buffer<int> out(1);
  launch(flag_kernel, 1, 64, 0, out.device);
  return outcome([&] { return out.equals([](size_t) { return 42; }); });
}

__global__ void counts_kernel(int* out) {
  const int i = int(threadIdx.x);
  const int threes = __syncthreads_count(i % 3 == 0), any = __syncthreads_or(i == 99), all = __syncthreads_and(i < 99);
  out[i] = threes * 4 + any * 2 + all;
}

static std::string counts() {
  Buffer<int> out(100);
  launch(counts_kernel, 1, 100, 0, out.device);
  return outcome([&] { return out.equals([](size_t) { return 34 * 4 + 2; }); });
}

__global__ void indices_kernel(unsigned* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

static std::string indices() {
  Buffer<unsigned> out(30 * 42);
  launch(indices_kernel, dim3(5, 3, 2), dim3(7, 3, 2), 0, out.device);
  return outcome([&] { return out.equals([](size_t i) { return i / 42 * 1000 + i % 42; }); });
}

// Every bfloat16 survives, and what lies between two goes to the nearer one, ties to the even one.
static std::string rounding() {
  for (unsigned bits = 0; bits < 0x10000; bits++) {
    const float value = __uint_as_float(bits << 16);
    const unsigned back = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    if (std::isnan(value) ? back != 0x7fff : back != bits) return "wrong";
    if ((bits & 0x7f80) == 0x7f80) continue;
    const auto rounded = [&](unsigned low) {
      return unsigned(__bfloat16_as_ushort(__float2bfloat16_rn(__uint_as_float(bits << 16 | low))));
    };
    if (rounded(0x7fff) != bits || rounded(0x8000) != bits + bits % 2 || rounded(0x8001) != bits + 1) return "wrong";
  }
  return "right";
}

std::vector<Case> sound_cases() {
  return {{"layer norm", layer_norm}, {"shared objects", neighbours}, {"transpose", transpose}, {"matrix product", product},
          {"exchanges", exchanges},   {"tickets", tickets},           {"flag", flag},           {"counts", counts},
          {"indices", indices},       {"rounding", rounding}};
}

}  // namespace galago::cuda
