// Dropout: the mask is a function of (seed, step, call, element), so backward makes it again and nothing is stored.
#include <algorithm>
#include <cmath>

#include "../core/philox.h"
#include "dispatch.h"

namespace galago::cpu {

namespace {

constexpr int64_t blocks_at_once = 16;  // Philox blocks made side by side
constexpr int64_t block_elements = 8;   // four words, two decisions of 16 bits each

struct DropoutKey {
  uint32_t seed_low, seed_high, call, step;
};

// decisions[8 l + j]: 16 bits for element j of block first + l, four words lowest bits first. A loop over blocks with all rounds inside,
// which the compiler makes a loop over lanes; vector types of its own would be taken apart before it knows the instruction set.
GALAGO_INLINE void philox_decisions(int64_t first, const DropoutKey& key, uint16_t (&decisions)[blocks_at_once * block_elements]) {
  uint32_t words[4][blocks_at_once];
  for (int l = 0; l < blocks_at_once; l++) {
    const uint64_t block = uint64_t(first) + uint64_t(l);
    const Philox4 random = philox(uint32_t(block), uint32_t(block >> 32), key.call, key.step, key.seed_low, key.seed_high);
    for (int w = 0; w < 4; w++) words[w][l] = random.v[w];
  }
  for (int l = 0; l < blocks_at_once; l++)
    for (int w = 0; w < 4; w++) {
      decisions[block_elements * l + 2 * w] = uint16_t(words[w][l]);
      decisions[block_elements * l + 2 * w + 1] = uint16_t(words[w][l] >> 16);
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
      vectorize<T>([=] {
        uint16_t decisions[tile];
        for (int64_t i = begin; i < end; i += tile) {
          philox_decisions(i / block_elements, key, decisions);
          const T* from = px + i;
          T* to = po + i;
          const int64_t count = std::min(tile, end - i);
#pragma GCC ivdep
          for (int64_t j = 0; j < count; j++) {
            const T kept = from[j] * scale;
            to[j] = decisions[j] < threshold ? kept : T(0);  // not a product with 0: a dropped infinity is 0
          }
        }
      });
    });
  });
}

}  // namespace galago::cpu
