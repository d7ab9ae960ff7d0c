// Philox4x32-10, for CPU and CUDA alike. A random number is a function of (key, counter) and of nothing else.
#pragma once
#include <cstdint>

namespace galago {

struct Philox4 {
  uint32_t v[4];
};

constexpr Philox4 philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
#ifndef __CUDACC__
#pragma GCC unroll 10  // so that a loop over counters has no loop inside and vectorises
#endif
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t(0xd2511f53u) * c0, p1 = uint64_t(0xcd9e8d57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

// The published vectors.
static_assert(philox(0, 0, 0, 0, 0, 0).v[0] == 0x6627e8d5u && philox(0, 0, 0, 0, 0, 0).v[1] == 0xe169c58du);
static_assert(philox(0, 0, 0, 0, 0, 0).v[2] == 0xbc57ac4cu && philox(0, 0, 0, 0, 0, 0).v[3] == 0x9b00dbd8u);
static_assert(philox(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u).v[0] == 0xd16cfe09u);

}  // namespace galago
