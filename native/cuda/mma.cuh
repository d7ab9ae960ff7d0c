// Products of small bfloat16 tiles with float32 sums (mma.sync m16n8k16), the shared-memory reads that feed them, and which element of a
// tile lies in which lane. All 32 lanes of a warp call each of these functions.
#pragma once
#include <cstring>

#include "launch.cuh"

namespace galago::cuda {

// ---- fragment maps: element i of a lane. A register holds two neighbouring elements, the even one in its low half.

struct Place {
  int row, column;
};

// A (16 x 16), 8 elements in 4 registers: quarters top left, bottom left, top right, bottom right.
__host__ __device__ constexpr Place place_in_a(int lane, int i) { return {lane / 4 + i / 2 % 2 * 8, lane % 4 * 2 + i % 2 + i / 4 * 8}; }
// B (16 x 8), 4 elements in 2 registers: upper and lower half.
__host__ __device__ constexpr Place place_in_b(int lane, int i) { return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4}; }
// The sums (16 x 8), 4 float32: upper and lower half.
__host__ __device__ constexpr Place place_in_sums(int lane, int i) { return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2}; }

template <int ROWS, int COLUMNS, class Map>
constexpr bool covers_once(Map map) {
  bool seen[ROWS][COLUMNS] = {};
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < ROWS * COLUMNS / 32; i++) {
      const Place at = map(lane, i);
      if (at.row < 0 || at.row >= ROWS || at.column < 0 || at.column >= COLUMNS || seen[at.row][at.column]) return false;
      seen[at.row][at.column] = true;
    }
  }
  return true;
}
static_assert(covers_once<16, 16>(place_in_a) && covers_once<16, 8>(place_in_b) && covers_once<16, 8>(place_in_sums));

// Two fragments of sums side by side are one fragment of A: what lets a product's result be the next product's left side.
constexpr bool sums_are_a() {
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 8; i++) {
      const Place a = place_in_a(lane, i), sum = place_in_sums(lane, i % 4);
      if (a.row != sum.row || a.column != sum.column + i / 4 * 8) return false;
    }
  }
  return true;
}
static_assert(sums_are_a());

// ---- instructions

// sums (16 x 8) += a (16 x 16) b (16 x 8)
__device__ __forceinline__ void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef GALAGO_EMULATED
  struct Lane {
    float sums[4];
    uint32_t a[4], b[2];
  };
  Lane mine;
  memcpy(mine.sums, sums, sizeof sums), memcpy(mine.a, a, sizeof a), memcpy(mine.b, b, sizeof b);
  emu::warp_collective(mine, [](Lane* lanes) {
    const auto element = [](const uint32_t* registers, int i) {
      const uint32_t bits = i % 2 ? registers[i / 2] & 0xffff0000u : registers[i / 2] << 16;
      float value;
      memcpy(&value, &bits, sizeof value);
      return value;
    };
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < 8; i++) left[place_in_a(lane, i).row][place_in_a(lane, i).column] = element(lanes[lane].a, i);
      for (int i = 0; i < 4; i++) right[place_in_b(lane, i).row][place_in_b(lane, i).column] = element(lanes[lane].b, i);
    }
    float product[16][8] = {};
    for (int row = 0; row < 16; row++)
      for (int k = 0; k < 16; k++)
        for (int column = 0; column < 8; column++) product[row][column] += left[row][k] * right[k][column];
    for (int lane = 0; lane < 32; lane++)
      for (int i = 0; i < 4; i++) lanes[lane].sums[i] += product[place_in_sums(lane, i).row][place_in_sums(lane, i).column];
  });
  memcpy(sums, mine.sums, sizeof sums);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// COUNT (1, 2 or 4) matrices of 8 x 8 from shared memory. Lane 8 m + r names row r of matrix m: 8 elements, 16-byte aligned (of a
// smaller COUNT the other lanes' addresses are ignored). Lane l receives elements (l / 4, 2 (l % 4)) and the next of each matrix;
// TRANSPOSED, elements (2 (l % 4), l / 4) and the one below.
template <bool TRANSPOSED = false, int COUNT>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[COUNT], const void* row) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4);
#ifdef GALAGO_EMULATED
  struct Lane {
    const void* row;
    uint32_t to[COUNT];
  };
  Lane mine{row, {}};
  emu::warp_collective(mine, [](Lane* lanes) {
    for (int matrix = 0; matrix < COUNT; matrix++) {
      uint16_t values[8][8];
      for (int r = 0; r < 8; r++) {
        const void* from = lanes[8 * matrix + r].row;
        emu::require_aligned(from, 16, "ldmatrix");
        emu::shared_address(from, 16);  // a fault where it is no shared memory
        memcpy(values[r], from, sizeof values[r]);
      }
      for (int lane = 0; lane < 32; lane++) {
        const int r = lane / 4, c = lane % 4 * 2;
        const uint16_t low = TRANSPOSED ? values[c][r] : values[r][c], high = TRANSPOSED ? values[c + 1][r] : values[r][c + 1];
        lanes[lane].to[matrix] = uint32_t(high) << 16 | low;
      }
    }
  });
  memcpy(to, mine.to, sizeof mine.to);
#else
  const auto from = unsigned(__cvta_generic_to_shared(row));
  if constexpr (COUNT == 4 && !TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  if constexpr (COUNT == 4 && TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  if constexpr (COUNT == 2 && !TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
  if constexpr (COUNT == 2 && TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
  if constexpr (COUNT == 1 && !TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(to[0]) : "r"(from) : "memory");
  if constexpr (COUNT == 1 && TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(to[0]) : "r"(from) : "memory");
#endif
}

// The transpose of an 8 x 8 matrix that lies in the warp's registers, one per lane, as load_matrices leaves it.
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t x) {
#ifdef GALAGO_EMULATED
  emu::warp_collective(x, [](uint32_t* lanes) {
    uint16_t values[8][8];
    for (int lane = 0; lane < 32; lane++) memcpy(&values[lane / 4][lane % 4 * 2], &lanes[lane], sizeof(uint32_t));
    for (int lane = 0; lane < 32; lane++) lanes[lane] = uint32_t(values[lane % 4 * 2 + 1][lane / 4]) << 16 | values[lane % 4 * 2][lane / 4];
  });
  return x;
#else
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
#endif
}

// Two float32 rounded to bfloat16, `low` in the low half: neighbouring elements of a fragment.
__device__ __forceinline__ uint32_t pack_bfloat16(float low, float high) {
#ifdef GALAGO_EMULATED
  const bfloat16 halves[2] = {from_float<bfloat16>(low), from_float<bfloat16>(high)};
  uint32_t y;
  memcpy(&y, halves, sizeof y);
  return y;
#else
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#endif
}

}  // namespace galago::cuda
