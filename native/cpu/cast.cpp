// cast between float32 and bfloat16, the upper half of a float32. The only CPU kernel that knows bfloat16: it stores, nothing here computes
// in it.
#include <bit>

#include "dispatch.h"

namespace galago::cpu {

// To nearest, ties to even: adds 0x7fff, and one more where the last kept bit is odd. A carry out of the fraction is the next exponent,
// infinity past the largest number. NaN would round to another NaN, or to -0, so it is set apart.
static uint16_t rounded(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t up = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : up);
}

void cast(const Tensor& x, Tensor& out) {
  CHECK(x.size() == out.size(), "cast: sizes differ");
  if (x.dtype == DType::float32 && out.dtype == DType::bfloat16) {
    const float* from = x.data<float>();
    uint16_t* to = out.data<uint16_t>();
    parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
      vectorize([&] {
        for (int64_t i = begin; i < end; i++) to[i] = rounded(from[i]);
      });
    });
  } else {
    CHECK(x.dtype == DType::bfloat16 && out.dtype == DType::float32, "cast: expected float32 and bfloat16");
    const uint16_t* from = x.data<uint16_t>();
    float* to = out.data<float>();
    parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
      vectorize([&] {
        for (int64_t i = begin; i < end; i++) to[i] = std::bit_cast<float>(uint32_t(from[i]) << 16);
      });
    });
  }
}

}  // namespace galago::cpu
