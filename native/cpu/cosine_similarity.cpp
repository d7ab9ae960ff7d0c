// Cosine of each item's vector with the rows of its history.
#include <algorithm>
#include <cmath>

#include "offsets.h"
#include "row_loops.h"

namespace galago::cpu {

namespace {

template <class T>
GALAGO_INLINE T dot(const T* a, const T* b, int64_t n) {
  if (n == 1) return a[0] * b[0];  // ones against ones: which rows a mask shows
  return lane_sum<T, 16>(n, [=](int64_t i) GALAGO_INLINE_BODY { return a[i] * b[i]; });
}

}  // namespace

void cosine_similarity_forward(const Tensor& d, const Tensor& h, const Tensor& offsets, const Tensor& mask, Tensor& out, double eps) {
  dispatch_float(d.dtype, [&]<class T>() {
    const int64_t B = d.shape[0], N = h.shape[0], D = d.columns();
    const std::vector<int32_t> checked = checked_offsets("cosineSimilarity", "offsets", offsets, N);
    const int32_t *bounds = checked.data(), *hidden = mask.data<int32_t>();
    const T *pd = d.data<T>(), *ph = h.data<T>();
    T* po = out.data<T>();
    std::fill(po, po + bounds[0], T(0));
    std::fill(po + bounds[B], po + N, T(0));
    for_rows<T>(B, B > 0 ? N * D / B + D : 1, [=](int64_t b) GALAGO_INLINE_BODY {
      const T* vector = pd + b * D;
      const T inverse = 1 / std::max(std::sqrt(dot(vector, vector, D)), T(eps));
      for (int64_t t = bounds[b]; t < bounds[b + 1]; t++) {
        const T* row = ph + t * D;
        const bool skip = hidden && hidden[t] < 0;
        po[t] = skip ? T(0) : dot(vector, row, D) * inverse / std::max(std::sqrt(dot(row, row, D)), T(eps));
      }
    });
  });
}

// With unit vectors u = d/|d|, w = h/|h|: dd = (w - s u) / |d| and dh = (u - s w) / |h|; below eps the divisor is a constant.
void cosine_similarity_backward(const Tensor& d, const Tensor& h, const Tensor& offsets, const Tensor& mask, const Tensor& out,
                                const Tensor& dout, Tensor& dd, Tensor& dh, double eps) {
  dispatch_float(d.dtype, [&]<class T>() {
    const int64_t B = d.shape[0], N = h.shape[0], D = d.columns();
    const std::vector<int32_t> checked = checked_offsets("cosineSimilarity", "offsets", offsets, N);
    const int32_t *bounds = checked.data(), *hidden = mask.data<int32_t>();
    const T *pd = d.data<T>(), *ph = h.data<T>(), *ps = out.data<T>(), *pg = dout.data<T>();
    T *pdd = dd.data<T>(), *pdh = dh.data<T>();
    if (pdh) {
      std::fill(pdh, pdh + bounds[0] * D, T(0));
      std::fill(pdh + bounds[B] * D, pdh + N * D, T(0));
    }
    for_rows<T>(B, B > 0 ? N * D / B + D : 1, [=](int64_t b) GALAGO_INLINE_BODY {
      const T* vector = pd + b * D;
      const T length = std::sqrt(dot(vector, vector, D)), inverse = 1 / std::max(length, T(eps));
      T along = 0;  // sum of dout s: the part of dd along d
      if (pdd) std::fill(pdd + b * D, pdd + (b + 1) * D, T(0));
      for (int64_t t = bounds[b]; t < bounds[b + 1]; t++) {
        const T* row = ph + t * D;
        const T row_length = std::sqrt(dot(row, row, D)), row_inverse = 1 / std::max(row_length, T(eps));
        const T g = hidden && hidden[t] < 0 ? T(0) : pg[t];
        const T cross = g * inverse * row_inverse;
        const T own = row_length > T(eps) ? g * ps[t] * row_inverse * row_inverse : T(0);
        along += g * ps[t];
        if (pdd)
          for (int64_t i = 0; i < D; i++) pdd[b * D + i] += cross * row[i];
        if (pdh)
          for (int64_t i = 0; i < D; i++) pdh[t * D + i] = cross * vector[i] - own * row[i];
      }
      const T own = length > T(eps) ? along * inverse * inverse : T(0);
      if (pdd)
        for (int64_t i = 0; i < D; i++) pdd[b * D + i] -= own * vector[i];
    });
  });
}

}  // namespace galago::cpu
