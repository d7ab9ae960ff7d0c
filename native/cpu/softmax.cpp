// Softmax over the last dimension.
#include "row_loops.h"
#include "softmax_row.h"

namespace galago::cpu {

void softmax_forward(const Tensor& x, Tensor& out) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T* px = x.data<T>();
    T* po = out.data<T>();
    const int64_t D = x.columns();
    for_rows<T>(x.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY { softmax_row(px + r * D, po + r * D, D); });
  });
}

void softmax_backward(const Tensor& out, const Tensor& dout, Tensor& dx) {
  dispatch_float(out.dtype, [&]<class T>() {
    const T *po = out.data<T>(), *pd = dout.data<T>();
    T* pdx = dx.data<T>();
    const int64_t D = out.columns();
    for_rows<T>(out.rows(), D, [=](int64_t r) GALAGO_INLINE_BODY { softmax_row_backward(po + r * D, pd + r * D, pdx + r * D, D); });
  });
}

}  // namespace galago::cpu
