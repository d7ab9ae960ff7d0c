/*
exp, log, tanh, erf and sigmoid without branches or calls, so that loops over them become vector code.

float: polynomials fitted for these intervals (weighted least squares, driven to equal ripple); errors measured against
float64 over every 97th float, with and without fused multiply-add. double: the standard library.
Vectorisation needs -O3 -fno-math-errno -fno-trapping-math (CMakeLists.txt); AVX-512 then takes 0.2-0.6 ns per value.
*/
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "isa.h"

namespace galago::cpu {

GALAGO_INLINE double fast_exp(double x) { return std::exp(x); }
GALAGO_INLINE double fast_log(double x) { return std::log(x); }
GALAGO_INLINE double fast_tanh(double x) { return std::tanh(x); }
GALAGO_INLINE double fast_erf(double x) { return std::erf(x); }

// e^x within 1.5 ulp; denormal results too, infinity above 88.73, 0 below -104, NaN stays NaN.
GALAGO_INLINE float fast_exp(float x) {
  constexpr float round_to_int = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  const float low = x < -104.0f ? -104.0f : x;
  const float bounded = low > 89.0f ? 89.0f : low;
  const float shifted = bounded * 1.44269504f + round_to_int;
  const float n = shifted - round_to_int;
  // ln 2 in two parts: the first has few bits, so n times it is exact
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.381448077e-03f;
  p = p * r + 8.368715281e-03f;
  p = p * r + 4.166838910e-02f;
  p = p * r + 1.666652064e-01f;
  p = p * r + 4.999999345e-01f;
  p = (p * r) * r + r;
  p = p + 1.0f;
  // 2^n as two factors: n reaches 128 and -150, one factor holds -126 .. 127
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(round_to_int);
  const int32_t half = exponent >> 1;
  const float scale = std::bit_cast<float>((half + 127) << 23);
  const float other = std::bit_cast<float>((exponent - half + 127) << 23);
  return (p * scale) * other;
}

// ln x within 1.5 ulp; -infinity at 0, NaN below, denormals too.
GALAGO_INLINE float fast_log(float x) {
  const bool tiny = x < std::numeric_limits<float>::min();
  const float scaled = tiny ? x * 8388608.0f : x;
  const int32_t bits = std::bit_cast<int32_t>(scaled);
  // mantissa in [sqrt(1/2), sqrt(2)), so that f stays small around 1
  const int32_t shifted = bits - 0x3f3504f3;
  const int32_t exponent = shifted >> 23;
  const float mantissa = std::bit_cast<float>(bits - (exponent << 23));
  const float f = mantissa - 1.0f;
  const float n = static_cast<float>(exponent) - (tiny ? 23.0f : 0.0f);
  float g = 6.744550165e-02f;
  g = g * f + -1.167480901e-01f;
  g = g * f + 1.188860089e-01f;
  g = g * f + -1.240575572e-01f;
  g = g * f + 1.421952012e-01f;
  g = g * f + -1.666798558e-01f;
  g = g * f + 2.000211961e-01f;
  g = g * f + -2.500000979e-01f;
  g = g * f + 3.333331260e-01f;
  const float square = f * f;
  float y = (g * f) * square + n * -2.12194440e-4f;
  y = y - 0.5f * square;
  const float finite = (f + y) + n * 0.693359375f;
  const float infinity = std::numeric_limits<float>::infinity();
  const float positive = x < infinity ? finite : x;  // infinity and NaN are their own logarithms
  const float nonnegative = x == 0.0f ? -infinity : positive;
  return x < 0.0f ? std::numeric_limits<float>::quiet_NaN() : nonnegative;
}

// 1 / (1 + e^-x) within 2.5 ulp.
template <class T>
GALAGO_INLINE T fast_sigmoid(T x) {
  return T(1) / (T(1) + fast_exp(-x));
}

// tanh x within 2 ulp.
GALAGO_INLINE float fast_tanh(float x) {
  const float t = std::fabs(x);
  const float s = x * x;
  float p = -5.648307596e-03f;
  p = p * s + 2.058981752e-02f;
  p = p * s + -5.372512346e-02f;
  p = p * s + 1.333127439e-01f;
  p = p * s + -3.333327606e-01f;
  const float near = (p * s) * x + x;
  const float far = std::copysign(1.0f - 2.0f / (fast_exp(t + t) + 1.0f), x);
  return t < 0.625f ? near : far;
}

// erf x within 7 ulp (4e-7), most of it rounding near 1: x P(x^2) / Q(x^2). A formula through the exponential has 1.4 ulp and takes
// three times as long, which gelu would feel. Exactly 1 from 3.925 on.
GALAGO_INLINE float fast_erf(float x) {
  const float t = std::fabs(x);
  const float s = x * x;
  float p = 2.046004286e-06f;
  p = p * s + 2.848322557e-04f;
  p = p * s + 3.772275925e-03f;
  p = p * s + 5.276843130e-02f;
  p = p * s + 1.905881018e-01f;
  p = p * s + 1.128379146e+00f;
  float q = 3.804694377e-05f;
  q = q * s + 1.163781797e-03f;
  q = q * s + 1.498265134e-02f;
  q = q * s + 1.141802774e-01f;
  q = q * s + 5.022370396e-01f;
  q = q * s + 1.0f;
  const float y = x * p / q;
  return t >= 3.925f ? std::copysign(1.0f, x) : y;
}

// Array forms: y may be x.
template <class T>
void exp_array(const T* x, T* y, int64_t n) {
  vectorize<T>([=] {
    for (int64_t i = 0; i < n; ++i) y[i] = fast_exp(x[i]);
  });
}
template <class T>
void log_array(const T* x, T* y, int64_t n) {
  vectorize<T>([=] {
    for (int64_t i = 0; i < n; ++i) y[i] = fast_log(x[i]);
  });
}
template <class T>
void tanh_array(const T* x, T* y, int64_t n) {
  vectorize<T>([=] {
    for (int64_t i = 0; i < n; ++i) y[i] = fast_tanh(x[i]);
  });
}
template <class T>
void erf_array(const T* x, T* y, int64_t n) {
  vectorize<T>([=] {
    for (int64_t i = 0; i < n; ++i) y[i] = fast_erf(x[i]);
  });
}
template <class T>
void sigmoid_array(const T* x, T* y, int64_t n) {
  vectorize<T>([=] {
    for (int64_t i = 0; i < n; ++i) y[i] = fast_sigmoid(x[i]);
  });
}

}  // namespace galago::cpu
