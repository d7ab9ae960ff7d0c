// Activations: out = f(x), dx = dout f'(x).
#include <cmath>

#include "dispatch.h"

namespace galago::cpu {

namespace {

template <class T, Activation kind>
T value(T x) {
  if constexpr (kind == Activation::relu) return x > 0 ? x : 0;
  if constexpr (kind == Activation::gelu) return x * T(0.5) * (1 + std::erf(x * T(M_SQRT1_2)));
  if constexpr (kind == Activation::silu) return x / (1 + std::exp(-x));
  if constexpr (kind == Activation::sigmoid) return 1 / (1 + std::exp(-x));
  if constexpr (kind == Activation::tanh) return std::tanh(x);
  return x;
}

// Derivative from the input x and the output y, whichever is cheaper.
template <class T, Activation kind>
T slope(T x, T y) {
  if constexpr (kind == Activation::relu) return x > 0 ? T(1) : T(0);
  if constexpr (kind == Activation::gelu)
    return T(0.5) * (1 + std::erf(x * T(M_SQRT1_2))) + x * std::exp(-x * x / 2) * T(M_2_SQRTPI * M_SQRT1_2 / 2);
  if constexpr (kind == Activation::silu) {
    const T s = 1 / (1 + std::exp(-x));
    return s * (1 + x * (1 - s));
  }
  if constexpr (kind == Activation::sigmoid) return y * (1 - y);
  if constexpr (kind == Activation::tanh) return 1 - y * y;
  return 1;
}

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

}  // namespace

void activation_forward(const Tensor& x, Tensor& out, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch_activation(kind, [&]<Activation k>() {
      const T* px = x.data<T>();
      T* po = out.data<T>();
      parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
        vectorize([&] {
          for (int64_t i = begin; i < end; i++) po[i] = value<T, k>(px[i]);
        });
      });
    });
  });
}

void activation_backward(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& dx, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch_activation(kind, [&]<Activation k>() {
      const T *px = x.data<T>(), *py = out.data<T>(), *pd = dout.data<T>();
      T* pdx = dx.data<T>();
      parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
        vectorize([&] {
          for (int64_t i = begin; i < end; i++) pdx[i] = pd[i] * slope<T, k>(px[i], py[i]);
        });
      });
    });
  });
}

}  // namespace galago::cpu
