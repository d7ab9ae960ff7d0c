// Binary cross entropy from logits: max(x, 0) - x y + log1p(e^-|x|), weighted mean in fixed chunks.
#include <cmath>
#include <vector>

#include "dispatch.h"
#include "vector_math.h"

namespace galago::cpu {

namespace {

template <class T, class Body>
T chunked_sum(int64_t n, const Body& body) {
  std::vector<T> partials(size_t(chunk_count(n, element_grain)), T(0));
  parallel_for(n, element_grain, [&](int64_t begin, int64_t end) {
    vectorize<T>([&] {
      partials[size_t(begin / element_grain)] = lane_sum<T>(end - begin, [&](int64_t i) GALAGO_INLINE_BODY { return body(begin + i); });
    });
  });
  T total = 0;
  for (const T partial : partials) total += partial;
  return total;
}

template <class T>
T total_weight(const Tensor& weights, int64_t n) {
  if (!weights) return T(n);
  const T* w = weights.data<T>();
  return chunked_sum<T>(n, [w](int64_t i) GALAGO_INLINE_BODY { return w[i]; });
}

}  // namespace

void bce_with_logits_forward(const Tensor& logits, const Tensor& labels, const Tensor& weights, Tensor& loss) {
  dispatch_float(logits.dtype, [&]<class T>() {
    const T *x = logits.data<T>(), *y = labels.data<T>(), *w = weights.data<T>();
    const int64_t n = logits.size();
    const T total = total_weight<T>(weights, n);
    const T sum = chunked_sum<T>(n, [=](int64_t i) GALAGO_INLINE_BODY {
      const T magnitude = x[i] < 0 ? -x[i] : x[i];
      // e^-|x| <= 1, so log(1 + e) loses at most a rounding of the sum
      const T value = (x[i] > 0 ? x[i] : 0) - x[i] * y[i] + fast_log(1 + fast_exp(-magnitude));
      return w ? w[i] * value : value;
    });
    *loss.data<T>() = total > 0 ? sum / total : 0;
  });
}

void bce_with_logits_backward(const Tensor& logits, const Tensor& labels, const Tensor& weights, const Tensor& dloss, Tensor& dlogits) {
  dispatch_float(logits.dtype, [&]<class T>() {
    const T *x = logits.data<T>(), *y = labels.data<T>(), *w = weights.data<T>();
    T* dx = dlogits.data<T>();
    const int64_t n = logits.size();
    const T total = total_weight<T>(weights, n);
    const T factor = total > 0 ? *dloss.data<T>() / total : 0;
    parallel_for(n, element_grain, [&](int64_t begin, int64_t end) {
      vectorize<T>([&] {
        for (int64_t i = begin; i < end; i++) {
          const T d = (fast_sigmoid(x[i]) - y[i]) * factor;
          dx[i] = w ? d * w[i] : d;
        }
      });
    });
  });
}

}  // namespace galago::cpu
