// Weighted sums or means of the rows of jagged data.
#include "dispatch.h"
#include "offsets.h"

namespace galago::cpu {

static int64_t segment_grain(int64_t total, int64_t B, int64_t D) {
  return row_grain(D * std::max<int64_t>(1, total / std::max<int64_t>(B, 1)));
}

void segment_sum_forward(const Tensor& x, const Tensor& offsets, const Tensor& weights, Tensor& out, bool mean) {
  const int64_t total = x.shape[0], D = x.columns(), B = out.shape[0];
  const std::vector<int32_t> offset = checked_offsets("segmentSum", "offsets", offsets, total);
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *weight = weights.data<T>();
    T* to = out.data<T>();
    parallel_for(B, segment_grain(total, B, D), [&](int64_t first, int64_t last) {
      vectorize<T>([&] {
        for (int64_t b = first; b < last; b++) {
          const int64_t begin = offset[size_t(b)], end = offset[size_t(b) + 1];
          T* sum = to + b * D;
          for (int64_t d = 0; d < D; d++) sum[d] = 0;
          for (int64_t i = begin; i < end; i++) {
            const T w = weight ? weight[i] : T(1);
            for (int64_t d = 0; d < D; d++) sum[d] += w * px[i * D + d];
          }
          const T share = mean && end > begin ? T(1) / T(end - begin) : T(1);
          for (int64_t d = 0; d < D; d++) sum[d] *= share;
        }
      });
    });
  });
}

void segment_sum_backward(const Tensor& x, const Tensor& offsets, const Tensor& weights, const Tensor& dout, Tensor& dx, Tensor& dweights,
                          bool mean) {
  const int64_t total = x.shape[0], D = x.columns(), B = dout.shape[0];
  const std::vector<int32_t> offset = checked_offsets("segmentSum", "offsets", offsets, total);
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *weight = weights.data<T>(), *g = dout.data<T>();
    T *pdx = dx.data<T>(), *dw = dweights.data<T>();
    parallel_for(B, segment_grain(total, B, D), [&](int64_t first, int64_t last) {
      vectorize<T>([&] {
        for (int64_t b = first; b < last; b++) {
          const int64_t begin = offset[size_t(b)], end = offset[size_t(b) + 1];
          const T share = mean && end > begin ? T(1) / T(end - begin) : T(1);
          const T* gradient = g + b * D;
          for (int64_t i = begin; i < end; i++) {
            const T w = (weight ? weight[i] : T(1)) * share;
            const T* row = px + i * D;
            if (pdx)
              for (int64_t d = 0; d < D; d++) pdx[i * D + d] = w * gradient[d];
            if (dw) dw[i] = share * lane_sum<T>(D, [=](int64_t d) GALAGO_INLINE_BODY { return gradient[d] * row[d]; });
          }
        }
      });
    });
    const auto no_segment = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * D; pdx && i < end * D; i++) pdx[i] = 0;
      for (int64_t i = begin; dw && i < end; i++) dw[i] = 0;
    };
    no_segment(0, offset.front());
    no_segment(offset.back(), total);
  });
}

}  // namespace galago::cpu
