// Dropout: the mask is a function of (seed, step, call, element), so backward makes it again and nothing is stored.
#include <algorithm>
#include <cmath>

#include "../core/philox.h"
#include "dispatch.h"

namespace galago::cpu {

namespace {

constexpr int64_t blocks_at_once = 16;  // Philox blocks made side by side, one per vector lane
constexpr int64_t block_elements = 8;   // four words, two decisions of 16 bits each

struct DropoutKey {
  uint32_t seed_low, seed_high, call, step;
};

// words[w][l]: word w of block first + l. The rounds of core/philox.h, with the lanes innermost so that they vectorise.
GALAGO_INLINE void philox_lanes(int64_t first, const DropoutKey& key, uint32_t (&words)[4][blocks_at_once]) {
  uint32_t k0 = key.seed_low, k1 = key.seed_high;
  for (int l = 0; l < blocks_at_once; l++) {
    words[0][l] = uint32_t(first + l);
    words[1][l] = uint32_t(uint64_t(first + l) >> 32);
    words[2][l] = key.call;
    words[3][l] = key.step;
  }
  for (int round = 0; round < 10; round++) {
    for (int l = 0; l < blocks_at_once; l++) {
      const uint64_t p0 = uint64_t(0xd2511f53u) * words[0][l], p1 = uint64_t(0xcd9e8d57u) * words[2][l];
      const uint32_t c1 = words[1][l], c3 = words[3][l];
      words[0][l] = uint32_t(p1 >> 32) ^ c1 ^ k0;
      words[1][l] = uint32_t(p1);
      words[2][l] = uint32_t(p0 >> 32) ^ c3 ^ k1;
      words[3][l] = uint32_t(p0);
    }
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
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
      vectorize([&] {
        uint32_t words[4][blocks_at_once];
        T factor[tile];
        for (int64_t i = begin; i < end; i += tile) {
          philox_lanes(i / block_elements, key, words);
          for (int64_t l = 0; l < blocks_at_once; l++)
            for (int64_t w = 0; w < 4; w++) {
              factor[l * 8 + 2 * w] = (words[w][l] & 0xffff) < threshold ? scale : T(0);
              factor[l * 8 + 2 * w + 1] = (words[w][l] >> 16) < threshold ? scale : T(0);
            }
          const int64_t count = std::min(tile, end - i);
          // Not a product: a dropped infinity is 0
          for (int64_t j = 0; j < count; j++) po[i + j] = factor[j] == 0 ? T(0) : px[i + j] * factor[j];
        }
      });
    });
  });
}

}  // namespace galago::cpu
