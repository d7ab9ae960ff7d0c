/*
Which instruction set the CPU backend runs with, and code that is compiled once for each of them.

No file is compiled with -mavx2 or -mavx512f: functions carry a target attribute, and isa() picks one at run time.
GALAGO_CPU_ISA=portable|avx2|avx512 forces a smaller one; tests use it to run every path on one machine.
*/
#pragma once

#include <cstdint>
#include <type_traits>

// For small functions and lambdas that must disappear into a vector loop:
// `[=](int64_t i) GALAGO_INLINE_BODY { return x[i] * x[i]; }`
#define GALAGO_INLINE inline __attribute__((always_inline))
#define GALAGO_INLINE_BODY __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define GALAGO_X86 1
#define GALAGO_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define GALAGO_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#else
#define GALAGO_X86 0
#endif

namespace galago::cpu {

enum class Isa : uint8_t { portable, avx2, avx512 };

// The instruction set in use: the best of the processor, or the smaller one that GALAGO_CPU_ISA names.
// Throws when GALAGO_CPU_ISA names none of them, or one that the processor lacks.
Isa isa();

// Runs f() compiled for size: `cold` is what tells the compiler.
template <class F>
[[gnu::cold, gnu::noinline]] void run_small(F&& f) {
  f();
}

#if GALAGO_X86
template <class F>
GALAGO_TARGET_AVX512 [[gnu::flatten, gnu::noinline]] void vectorize_avx512(F& f) {
  f();
}
template <class F>
GALAGO_TARGET_AVX2 [[gnu::flatten, gnu::noinline]] void vectorize_avx2(F& f) {
  f();
}
#endif

// Runs f(), a loop over elements of type T, compiled for the best instruction set: everything that f calls and the compiler can see
// is inlined into a function with that target, so a plain loop vectorises without intrinsics.
// float64 is there for gradient checks: its code exists once, and is small instead of fast.
template <class T = float, class F>
void vectorize(F&& f) {
  if constexpr (std::is_same_v<T, double>) {
    run_small(f);
  } else {
#if GALAGO_X86
    switch (isa()) {
      case Isa::avx512: vectorize_avx512(f); return;
      case Isa::avx2: vectorize_avx2(f); return;
      case Isa::portable: run_small(f); return;  // processors from before 2013
    }
#else
    f();
#endif
  }
}

// A fold that vectorises although floating-point addition may not be reordered: 64 partial results (short rows want 16), combined
// as a tree. The order is the same on every instruction set. Call it inside vectorize().
template <int lanes = 64, class T, class Combine, class Body>
GALAGO_INLINE T lane_fold(int64_t n, T identity, const Combine& combine, const Body& body) {
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

// Sum of body(i) over [0, n), inside vectorize(): lane_sum<float>(n, [=](int64_t i) GALAGO_INLINE_BODY { return x[i]; }).
template <class T, int lanes = 64, class Body>
GALAGO_INLINE T lane_sum(int64_t n, const Body& body) {
  return lane_fold<lanes>(
      n, T(0), [](T a, T b) GALAGO_INLINE_BODY { return a + b; }, body);
}

// Largest body(i) over [0, n), `lowest` for an empty range. A NaN may or may not be seen.
template <class T, int lanes = 64, class Body>
GALAGO_INLINE T lane_max(int64_t n, T lowest, const Body& body) {
  return lane_fold<lanes>(
      n, lowest, [](T a, T b) GALAGO_INLINE_BODY { return a > b ? a : b; }, body);
}

}  // namespace galago::cpu
