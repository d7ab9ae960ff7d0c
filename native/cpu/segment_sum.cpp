// Weighted sums or means of the rows of jagged data.
#include "dispatch.h"
#include "jagged.h"

namespace galago::cpu {

static int64_t segment_grain(int64_t total, int64_t B, int64_t D) {
  return row_grain(D * std::max<int64_t>(1, total / std::max<int64_t>(B, 1)));
}

void segment_sum_forward(const Tensor& x, const Tensor& offsets, const Tensor& weights, Tensor& out, bool mean) {
  const int64_t total = x.shape[0], D = x.columns(), B = out.shape[0];
  check_offsets("segmentSum", offsets, total);
  const int32_t* offset = offsets.data<int32_t>();
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *weight = weights.data<T>();
    T* to = out.data<T>();
    parallel_for(B, segment_grain(total, B, D), [&](int64_t first, int64_t last) {
      vectorize([&] {
        for (int64_t b = first; b < last; b++) {
          const auto [begin, end] = jagged_row(offset, b, total);
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
  const int32_t* offset = offsets.data<int32_t>();
  dispatch_float(x.dtype, [&]<class T>() {
    const T *px = x.data<T>(), *weight = weights.data<T>(), *g = dout.data<T>();
    T *pdx = dx.data<T>(), *dw = dweights.data<T>();
    parallel_for(B, segment_grain(total, B, D), [&](int64_t first, int64_t last) {
      vectorize([&] {
        for (int64_t b = first; b < last; b++) {
          const auto [begin, end] = jagged_row(offset, b, total);
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
    const int64_t covered = B > 0 ? jagged_row(offset, B - 1, total).end : 0;
    for (int64_t i = covered * D; pdx && i < total * D; i++) pdx[i] = 0;
    for (int64_t i = covered; dw && i < total; i++) dw[i] = 0;
  });
}

}  // namespace galago::cpu
