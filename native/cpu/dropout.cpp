// Dropout: the mask is a function of (seed, step, call, element), so backward makes it again and nothing is stored.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../core/philox.h"
#include "dispatch.h"

namespace galago::cpu {

namespace {

constexpr int64_t blocks_at_once = 16;  // Philox blocks made side by side
constexpr int64_t block_elements = 8;   // four words, two decisions of 16 bits each

struct DropoutKey {
  uint32_t seed_low, seed_high, call, step;
};

// decisions[8 l + j]: 16 bits for element j of block first + l. The rounds of core/philox.h in lanes of 64 bits, because a round
// multiplies 32 by 32 bits: only the low halves count, what stands above them is garbage until the end.
GALAGO_INLINE void philox_decisions(int64_t first, const DropoutKey& key, uint16_t (&decisions)[blocks_at_once * block_elements]) {
  typedef uint64_t Lanes __attribute__((vector_size(64)));
  constexpr int lanes = 8;
  constexpr uint64_t low = 0xffffffffu;
  for (int part = 0; part < blocks_at_once / lanes; part++) {
    uint64_t k0 = key.seed_low, k1 = key.seed_high;
    Lanes c0 = Lanes{0, 1, 2, 3, 4, 5, 6, 7} + uint64_t(first + part * lanes);
    Lanes c1 = c0 >> 32, c2 = Lanes{} + key.call, c3 = Lanes{} + key.step;
    for (int round = 0; round < 10; round++) {
      const Lanes p0 = (c0 & low) * 0xd2511f53u, p1 = (c2 & low) * 0xcd9e8d57u;
      c0 = (p1 >> 32) ^ c1 ^ k0;
      c1 = p1;
      c2 = (p0 >> 32) ^ c3 ^ k1;
      c3 = p0;
      k0 += 0x9e3779b9u;
      k1 += 0xbb67ae85u;
    }
    // words 0 and 1 of a block, then 2 and 3, lowest bits first: 128 bits in the order of its elements
    const Lanes front = (c0 & low) | (c1 << 32), back = (c2 & low) | (c3 << 32);
    const Lanes blocks[2] = {__builtin_shufflevector(front, back, 0, 8, 1, 9, 2, 10, 3, 11),
                             __builtin_shufflevector(front, back, 4, 12, 5, 13, 6, 14, 7, 15)};
    std::memcpy(decisions + part * lanes * block_elements, blocks, sizeof blocks);
  }
}

}  // namespace

void dropout(const Tensor& x, Tensor& out, double p, int64_t seed, int64_t step, int64_t call) {
  // The keep probability lies on the grid of the 16-bit decisions; the scale uses the rounded value, so the mean is exact.
  const uint32_t threshold = uint32_t(std::clamp(std::nearbyint((1 - p) * 65536), 1.0, 65536.0));
  const DropoutKey key{uint32_t(seed), uint32_t(uint64_t(seed) >> 32), uint32_t(call), uint32_t(step)};
  dispatch_float(x.dtype, [&]<class T>() {
    const T* px = x.data<T>();
    T* po = out.data<T>();
    const T scale = T(65536.0 / threshold);
    const int64_t n = x.size();
    constexpr int64_t tile = blocks_at_once * block_elements;
    parallel_for(n, element_grain, [&](int64_t begin, int64_t end) {
      static_assert(element_grain % tile == 0);
      vectorize<T>([&] {
        uint16_t decisions[tile];
        T factor[tile];
        for (int64_t i = begin; i < end; i += tile) {
          philox_decisions(i / block_elements, key, decisions);
          for (int64_t j = 0; j < tile; j++) factor[j] = decisions[j] < threshold ? scale : T(0);
          const int64_t count = std::min(tile, end - i);
          // Not a product: a dropped infinity is 0
          for (int64_t j = 0; j < count; j++) po[i + j] = factor[j] == 0 ? T(0) : px[i + j] * factor[j];
        }
      });
    });
  });
}

}  // namespace galago::cpu
