// CUDA's functions for device code. A missing one is added here, with the device's rounding and with a fault where CUDA says undefined.
#pragma once
#include <algorithm>
#include <cmath>

#include "block.h"

// ---- barriers and fences

inline void __syncthreads(std::source_location at = std::source_location::current()) { emu::barrier("__syncthreads", at); }
inline int __syncthreads_count(int predicate, std::source_location at = std::source_location::current()) {
  return emu::barrier("__syncthreads_count", at, 0, 0, predicate != 0);
}
inline int __syncthreads_or(int predicate, std::source_location at = std::source_location::current()) {
  return emu::barrier("__syncthreads_or", at, 0, 0, predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate, std::source_location at = std::source_location::current()) {
  return emu::barrier("__syncthreads_and", at, 0, 0, predicate == 0) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emu::meet_in_warp("__syncwarp", mask, nullptr, nullptr, nullptr); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { emu::yield(); }
[[noreturn]] inline unsigned __activemask() { emu::fault("__activemask says nothing about which lanes will meet: name them in a mask"); }
[[noreturn]] inline void __trap() { emu::fault("__trap"); }

// ---- exchange within a warp

namespace emu {

constexpr bool named(unsigned mask, int lane) { return mask >> lane & 1; }

template <class T>
T shuffle(const char* instruction, unsigned mask, T value, int source) {
  struct Exchange {
    T value;
    int source;
  } own{value, source};
  warp_collective(
      own,
      [=](Exchange* lanes) {
        T values[warp_width];
        for (int lane = 0; lane < warp_width; lane++)
          if (named(mask, lane)) values[lane] = lanes[lane].value;
        for (int lane = 0; lane < warp_width; lane++) {
          if (!named(mask, lane)) continue;
          const int from = lanes[lane].source;
          if (!named(mask, from)) fault("%s: lane %d reads lane %d, which is not in the mask 0x%08x", instruction, lane, from, mask);
          lanes[lane].value = values[from];
        }
      },
      mask, instruction);
  return own.value;
}

// The lane that a shuffle of `width` lanes reads: `target` where it lies in the caller's segment, otherwise the caller itself.
inline int within_segment(int target, int width) {
  return target >= 0 && target / width == registers.lane / width ? target : registers.lane;
}

// f(result, value, lane) over the lanes in order, from `start`; every lane receives the result.
template <class R, class T, class F>
R warp_reduce(const char* instruction, unsigned mask, T value, R start, F&& f) {
  struct Exchange {
    T value;
    R result;
  } own{value, start};
  warp_collective(
      own,
      [&](Exchange* lanes) {
        R result = start;
        for (int lane = 0; lane < warp_width; lane++)
          if (named(mask, lane)) result = f(result, lanes[lane].value, lane);
        for (int lane = 0; lane < warp_width; lane++)
          if (named(mask, lane)) lanes[lane].result = result;
      },
      mask, instruction);
  return own.result;
}

}  // namespace emu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return emu::shuffle("__shfl_sync", mask, value, emu::registers.lane / width * width + (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  // CUDA: a lane of a later segment is out of reach, one of an earlier segment is not
  const int target = emu::registers.lane ^ bits;
  return emu::shuffle("__shfl_xor_sync", mask, value, target / width <= emu::registers.lane / width ? target : emu::registers.lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emu::shuffle("__shfl_down_sync", mask, value, emu::within_segment(emu::registers.lane + int(delta), width));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emu::shuffle("__shfl_up_sync", mask, value, emu::within_segment(emu::registers.lane - int(delta), width));
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emu::warp_reduce("__ballot_sync", mask, predicate, 0u,
                          [](unsigned bits, int p, int lane) { return bits | unsigned(p != 0) << lane; });
}
inline int __any_sync(unsigned mask, int predicate) {
  return emu::warp_reduce("__any_sync", mask, predicate, 0, [](int any, int p, int) { return int(any || p); });
}
inline int __all_sync(unsigned mask, int predicate) {
  return emu::warp_reduce("__all_sync", mask, predicate, 1, [](int all, int p, int) { return int(all && p); });
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  struct Exchange {
    T value;
    unsigned same;
  } own{value, 0};
  emu::warp_collective(
      own,
      [=](Exchange* lanes) {
        for (int i = 0; i < emu::warp_width; i++)
          for (int j = 0; j < emu::warp_width; j++)
            if (emu::named(mask, i) && emu::named(mask, j) && lanes[i].value == lanes[j].value) lanes[i].same |= 1u << j;
      },
      mask);
  return own.same;
}
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  return emu::warp_reduce("__reduce_add_sync", mask, value, T(0), [](T sum, T v, int) { return T(sum + v); });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
  return emu::warp_reduce("__reduce_max_sync", mask, value, value, [](T best, T v, int) { return std::max(best, v); });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
  return emu::warp_reduce("__reduce_min_sync", mask, value, value, [](T best, T v, int) { return std::min(best, v); });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return emu::warp_reduce("__reduce_or_sync", mask, value, 0u, [](unsigned all, unsigned v, int) { return all | v; });
}

// ---- atomics on integers. On floats they would make sums depend on the order, so they do not exist.

namespace emu {
template <class T, class F>
T replace(T* address, F&& f) {
  require_aligned(address, sizeof(T), "atomic");
  const T old = *address;
  *address = f(old);
  return old;
}
}  // namespace emu

#define EMU_ATOMICS(type)                                                             \
  inline type atomicAdd(type* at, type value) {                                       \
    return emu::replace(at, [=](type old) { return old + value; });                   \
  }                                                                                   \
  inline type atomicMax(type* at, type value) {                                       \
    return emu::replace(at, [=](type old) { return std::max(old, value); });          \
  }                                                                                   \
  inline type atomicMin(type* at, type value) {                                       \
    return emu::replace(at, [=](type old) { return std::min(old, value); });          \
  }                                                                                   \
  inline type atomicAnd(type* at, type value) {                                       \
    return emu::replace(at, [=](type old) { return old & value; });                   \
  }                                                                                   \
  inline type atomicOr(type* at, type value) {                                        \
    return emu::replace(at, [=](type old) { return old | value; });                   \
  }                                                                                   \
  inline type atomicXor(type* at, type value) {                                       \
    return emu::replace(at, [=](type old) { return old ^ value; });                   \
  }                                                                                   \
  inline type atomicExch(type* at, type value) {                                      \
    return emu::replace(at, [=](type) { return value; });                             \
  }                                                                                   \
  inline type atomicCAS(type* at, type expected, type value) {                        \
    return emu::replace(at, [=](type old) { return old == expected ? value : old; }); \
  }
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(unsigned long long)
#undef EMU_ATOMICS
inline int atomicSub(int* at, int value) { return atomicAdd(at, -value); }
inline unsigned atomicSub(unsigned* at, unsigned value) { return atomicAdd(at, 0u - value); }
inline unsigned atomicInc(unsigned* at, unsigned last) {
  return emu::replace(at, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}
inline unsigned atomicDec(unsigned* at, unsigned last) {
  return emu::replace(at, [=](unsigned old) { return old == 0 || old > last ? last : old - 1; });
}

// ---- loads and stores with a hint for the caches

#define EMU_LOAD(name)                                \
  template <class T>                                  \
  T name(const T* address) {                          \
    emu::require_aligned(address, alignof(T), #name); \
    return *address;                                  \
  }
#define EMU_STORE(name)                                  \
  template <class T>                                     \
  void name(T* address, std::type_identity_t<T> value) { \
    emu::require_aligned(address, alignof(T), #name);    \
    *address = value;                                    \
  }
EMU_LOAD(__ldg)
EMU_LOAD(__ldca)
EMU_LOAD(__ldcg)
EMU_LOAD(__ldcs)
EMU_LOAD(__ldcv)
EMU_LOAD(__ldlu)
EMU_STORE(__stcg)
EMU_STORE(__stcs)
EMU_STORE(__stwb)
EMU_STORE(__stwt)
#undef EMU_LOAD
#undef EMU_STORE
inline size_t __cvta_generic_to_shared(const void* pointer) { return emu::shared_address(pointer); }

// ---- integers

constexpr int __popc(unsigned x) { return __builtin_popcount(x); }
constexpr int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
constexpr int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
constexpr int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
constexpr int __ffs(int x) { return __builtin_ffs(x); }
constexpr int __ffsll(long long x) { return __builtin_ffsll(x); }
constexpr unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
constexpr unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
constexpr int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
constexpr unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
constexpr unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}
constexpr unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((unsigned long long)high << 32 | low) >> (shift & 31));
}
constexpr unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= unsigned(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}

#define EMU_MIN_MAX(type)                                      \
  constexpr type min(type a, type b) { return a < b ? a : b; } \
  constexpr type max(type a, type b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

// ---- floats. The fast versions are as exact as the C library's; names that the C library also has are macros.

using std::isfinite, std::isinf, std::isnan, std::signbit;

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)

// Conversions saturate and make NaN zero.
namespace emu {
template <class Integer>
Integer saturated(double x) {
  using Limits = std::numeric_limits<Integer>;
  if (std::isnan(x)) return 0;
  if (x <= double(Limits::min())) return Limits::min();
  if (x >= double(Limits::max())) return Limits::max();
  return Integer(x);
}
}  // namespace emu
inline int __float2int_rn(float x) { return emu::saturated<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return emu::saturated<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return emu::saturated<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return emu::saturated<int>(std::ceil(x)); }
inline unsigned __float2uint_rn(float x) { return emu::saturated<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return emu::saturated<unsigned>(std::trunc(x)); }
inline unsigned __float2uint_rd(float x) { return emu::saturated<unsigned>(std::floor(x)); }
inline long long __float2ll_rn(float x) { return emu::saturated<long long>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ll2float_rn(long long x) { return float(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }
