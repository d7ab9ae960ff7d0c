// Chooses the element type and the instruction set of a CPU kernel at run time.
#pragma once
#include <cstdlib>
#include <cstring>

#include "../core/parallel.h"
#include "../core/tensor.h"
#include "../kernels.h"

namespace galago::cpu {

// Calls f.template operator()<float>() or <double>().
template <class F>
void dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: f.template operator()<float>(); return;
    case DType::float64: f.template operator()<double>(); return;
    default: throw Error("DEVICE_LOST", std::string("expected a float32 or float64 tensor, got ") + name(dtype));
  }
}

enum class Isa : uint8_t { portable, avx2, avx512 };

// The best set of this processor, or a smaller one if GALAGO_CPU_ISA (portable, avx2, avx512) asks for it.
inline Isa isa() {
  static const Isa best = [] {
    Isa found = Isa::portable;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found = Isa::avx2;
    if (found == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      found = Isa::avx512;
#endif
    if (const char* asked = std::getenv("GALAGO_CPU_ISA")) {
      const Isa wanted = !std::strcmp(asked, "portable") ? Isa::portable : !std::strcmp(asked, "avx2") ? Isa::avx2 : Isa::avx512;
      if (wanted < found) found = wanted;
    }
    return found;
  }();
  return best;
}

#if defined(__x86_64__)
template <class F>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512"), gnu::flatten, gnu::noinline]] void vectorize_avx512(
    F& f) {
  f();
}
template <class F>
[[gnu::target("avx2,fma"), gnu::flatten, gnu::noinline]] void vectorize_avx2(F& f) {
  f();
}
#endif

// Runs f() compiled for the best instruction set: everything that f calls and the compiler can see is inlined into a function
// with that target, so a plain loop vectorises without intrinsics.
template <class F>
void vectorize(F&& f) {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::avx512: vectorize_avx512(f); return;
    case Isa::avx2: vectorize_avx2(f); return;
    case Isa::portable: break;
  }
#endif
  f();
}

// Elements per chunk of a kernel that streams through memory: large enough to hide the cost of handing it out.
constexpr int64_t element_grain = 16384;

// Rows per chunk so that a chunk holds about `element_grain` elements.
inline int64_t row_grain(int64_t columns) {
  const int64_t rows = element_grain / (columns > 0 ? columns : 1);
  return rows > 1 ? rows : 1;
}

}  // namespace galago::cpu
