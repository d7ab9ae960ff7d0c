// Softmax of one contiguous row and its derivative, inside vectorize().
#pragma once
#include <limits>

#include "vector_math.h"

namespace galago::cpu {

template <class T>
GALAGO_INLINE void softmax_row(const T* x, T* out, int64_t n) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  const T top = lane_max<T, 16>(n, lowest, [=](int64_t i) GALAGO_INLINE_BODY { return x[i]; });
  const T shift = top == lowest ? T(0) : top;  // all minus infinity: probabilities 0, not NaN
  for (int64_t i = 0; i < n; i++) out[i] = fast_exp(x[i] - shift);
  const T sum = lane_sum<T, 16>(n, [=](int64_t i) GALAGO_INLINE_BODY { return out[i]; });
  const T inverse = sum == 0 ? T(0) : 1 / sum;
  for (int64_t i = 0; i < n; i++) out[i] *= inverse;
}

// dx = p (dp - sum p dp).
template <class T>
GALAGO_INLINE void softmax_row_backward(const T* p, const T* dp, T* dx, int64_t n) {
  const T delta = lane_sum<T, 16>(n, [=](int64_t i) GALAGO_INLINE_BODY { return p[i] * dp[i]; });
  for (int64_t i = 0; i < n; i++) dx[i] = p[i] * (dp[i] - delta);
}

}  // namespace galago::cpu
