// Activations: out = f(x), dx = dout f'(x).
#include "activation.h"

#include "dispatch.h"

namespace galago::cpu {

void activation_forward(const Tensor& x, Tensor& out, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch_activation(kind, [&]<Activation k>() {
      const T* px = x.data<T>();
      T* po = out.data<T>();
      parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
        vectorize<T>([&] {
          for (int64_t i = begin; i < end; i++) po[i] = activate<k>(px[i]);
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
        vectorize<T>([&] {
          for (int64_t i = begin; i < end; i++) pdx[i] = pd[i] * slope<k>(px[i], py[i]);
        });
      });
    });
  });
}

}  // namespace galago::cpu
