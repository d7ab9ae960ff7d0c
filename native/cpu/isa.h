/*
Which instruction set the CPU backend runs with, and loops that are compiled once for each of them.

No file is compiled with -mavx2 or -mavx512f: functions carry a target attribute, and isa() picks one at run time.
GALAGO_CPU_ISA=portable|avx2|avx512 forces a smaller one; tests use it to run every path on one machine.
*/
#pragma once

#include <cstdint>
#include <type_traits>

#define GALAGO_INLINE inline __attribute__((always_inline))
// Goes between a lambda's parameter list and its body: `[=](int64_t i) GALAGO_INLINE_BODY { ... }`.
#define GALAGO_INLINE_BODY __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define GALAGO_X86 1
#define GALAGO_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define GALAGO_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#else
#define GALAGO_X86 0
#endif

namespace cpu {

enum class Isa { portable, avx2, avx512 };

// The instruction set in use: the best of the processor, or the smaller one that GALAGO_CPU_ISA names.
// Throws std::invalid_argument when GALAGO_CPU_ISA names none of them or one that the processor lacks.
Isa isa();

namespace loops {

template <class Body>
GALAGO_INLINE void each(int64_t n, const Body& body) {
  for (int64_t i = 0; i < n; ++i) body(i);
}

// 64 partial results whatever the vector width, so that every instruction set adds in the same order.
template <class T, class Combine, class Body>
GALAGO_INLINE T fold(int64_t n, T identity, const Combine& combine, const Body& body) {
  constexpr int lanes = 64;
  T partial[lanes];
  for (int l = 0; l < lanes; ++l) partial[l] = identity;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int l = 0; l < lanes; ++l) partial[l] = combine(partial[l], body(i + l));
  }
  for (int l = 0; i + l < n; ++l) partial[l] = combine(partial[l], body(i + l));
  for (int width = lanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) partial[l] = combine(partial[l], partial[l + width]);
  }
  return partial[0];
}

#if GALAGO_X86
template <class Body>
GALAGO_TARGET_AVX2 void each_avx2(int64_t n, const Body& body) {
  each(n, body);
}
template <class Body>
GALAGO_TARGET_AVX512 void each_avx512(int64_t n, const Body& body) {
  each(n, body);
}
template <class T, class Combine, class Body>
GALAGO_TARGET_AVX2 T fold_avx2(int64_t n, T identity, const Combine& combine, const Body& body) {
  return fold(n, identity, combine, body);
}
template <class T, class Combine, class Body>
GALAGO_TARGET_AVX512 T fold_avx512(int64_t n, T identity, const Combine& combine, const Body& body) {
  return fold(n, identity, combine, body);
}
#endif

}  // namespace loops

// body(i) for every i in [0, n), compiled for each instruction set. The body must be free of branches with side effects
// and marked GALAGO_INLINE_BODY, or the compiler cannot turn it into vector code:
//   simd_loop(n, [=](int64_t i) GALAGO_INLINE_BODY { y[i] = fast_exp(x[i]); });
template <class Body>
void simd_loop(int64_t n, const Body& body) {
#if GALAGO_X86
  switch (isa()) {
    case Isa::avx512: return loops::each_avx512(n, body);
    case Isa::avx2: return loops::each_avx2(n, body);
    case Isa::portable: break;
  }
#endif
  loops::each(n, body);
}

// Sum of body(i) over [0, n): 64 partial sums, combined as a tree; the same order on every instruction set.
template <class T, class Body>
T simd_sum(int64_t n, const Body& body) {
  const auto add = [](T a, T b) GALAGO_INLINE_BODY { return a + b; };
#if GALAGO_X86
  switch (isa()) {
    case Isa::avx512: return loops::fold_avx512(n, T(0), add, body);
    case Isa::avx2: return loops::fold_avx2(n, T(0), add, body);
    case Isa::portable: break;
  }
#endif
  return loops::fold(n, T(0), add, body);
}

// Largest body(i) over [0, n); `lowest` for an empty range. A NaN may or may not be seen.
template <class T, class Body>
T simd_max(int64_t n, T lowest, const Body& body) {
  const auto larger = [](T a, T b) GALAGO_INLINE_BODY { return a > b ? a : b; };
#if GALAGO_X86
  switch (isa()) {
    case Isa::avx512: return loops::fold_avx512(n, lowest, larger, body);
    case Isa::avx2: return loops::fold_avx2(n, lowest, larger, body);
    case Isa::portable: break;
  }
#endif
  return loops::fold(n, lowest, larger, body);
}

}  // namespace cpu
