// The activations and their derivatives, for their own op and for the epilogues of linear.
#pragma once
#include "launch.cuh"

namespace galago::cuda {

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

template <Activation KIND>
__device__ __forceinline__ float activate(float x) {
  if constexpr (KIND == Activation::relu) return x < 0 ? 0 : x;  // NaN stays NaN
  if constexpr (KIND == Activation::gelu) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  if constexpr (KIND == Activation::silu) return x * sigmoid_of(x);
  if constexpr (KIND == Activation::sigmoid) return sigmoid_of(x);
  if constexpr (KIND == Activation::tanh) return tanhf(x);
  return x;
}

// Derivative from the input x (gelu, silu) or the output y (the others).
template <Activation KIND>
__device__ __forceinline__ float slope(float x, float y) {
  if constexpr (KIND == Activation::relu) return y > 0 ? 1 : 0;
  if constexpr (KIND == Activation::gelu)
    return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * 0.39894228040143268f * expf(-0.5f * x * x);
  if constexpr (KIND == Activation::silu) {
    const float s = sigmoid_of(x);
    return s * (1.0f + x * (1.0f - s));
  }
  if constexpr (KIND == Activation::sigmoid) return y * (1.0f - y);
  if constexpr (KIND == Activation::tanh) return 1.0f - y * y;
  return 1;
}

// `dispatch_activation(kind, [&]<Activation KIND>() { ... });`
template <class F>
void dispatch_activation(Activation kind, F&& body) {
  switch (kind) {
    case Activation::none: return body.template operator()<Activation::none>();
    case Activation::relu: return body.template operator()<Activation::relu>();
    case Activation::gelu: return body.template operator()<Activation::gelu>();
    case Activation::silu: return body.template operator()<Activation::silu>();
    case Activation::sigmoid: return body.template operator()<Activation::sigmoid>();
    case Activation::tanh: return body.template operator()<Activation::tanh>();
  }
}

}  // namespace galago::cuda
