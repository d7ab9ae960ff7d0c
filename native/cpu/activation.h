// The activations as inline formulas, for activation.cpp and for the epilogues of matrix products.
#pragma once
#include <cmath>

#include "../kernels.h"
#include "vector_math.h"

namespace galago::cpu {

template <Activation kind, class T>
GALAGO_INLINE T activate(T x) {
  if constexpr (kind == Activation::relu) return x < T(0) ? T(0) : x;  // NaN stays NaN
  if constexpr (kind == Activation::gelu) return T(0.5) * x * (T(1) + fast_erf(x * T(M_SQRT1_2)));
  if constexpr (kind == Activation::silu) return x * fast_sigmoid(x);
  if constexpr (kind == Activation::sigmoid) return fast_sigmoid(x);
  if constexpr (kind == Activation::tanh) return fast_tanh(x);
  return x;
}

// Derivative from the input x and the output y, whichever is cheaper. slope_needs_input tells which.
template <Activation kind, class T>
GALAGO_INLINE T slope(T x, T y) {
  if constexpr (kind == Activation::relu) return y > T(0) ? T(1) : T(0);
  if constexpr (kind == Activation::gelu)
    return T(0.5) * (T(1) + fast_erf(x * T(M_SQRT1_2))) + x * fast_exp(x * x * T(-0.5)) * T(M_2_SQRTPI * M_SQRT1_2 / 2);
  if constexpr (kind == Activation::silu) {
    const T s = fast_sigmoid(x);
    return s * (T(1) + x * (T(1) - s));
  }
  if constexpr (kind == Activation::sigmoid) return y * (T(1) - y);
  if constexpr (kind == Activation::tanh) return T(1) - y * y;
  return T(1);
}

constexpr bool slope_needs_input(Activation kind) { return kind == Activation::gelu || kind == Activation::silu; }

// Calls f.template operator()<kind>().
template <class F>
void dispatch_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::none: f.template operator()<Activation::none>(); return;
    case Activation::relu: f.template operator()<Activation::relu>(); return;
    case Activation::gelu: f.template operator()<Activation::gelu>(); return;
    case Activation::silu: f.template operator()<Activation::silu>(); return;
    case Activation::sigmoid: f.template operator()<Activation::sigmoid>(); return;
    case Activation::tanh: f.template operator()<Activation::tanh>(); return;
  }
}

}  // namespace galago::cpu
