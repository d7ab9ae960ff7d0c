// Softmax within each segment of rows, column by column.
#include "offsets.h"
#include "row_loops.h"
#include "softmax_row.h"

namespace galago::cpu {

namespace {

// Rows outside of all segments become zero.
template <class T>
void zero_outside(T* x, const std::vector<int32_t>& offsets, int64_t rows, int64_t H) {
  std::fill(x, x + offsets.front() * H, T(0));
  std::fill(x + offsets.back() * H, x + rows * H, T(0));
}

// Segment of n rows, H columns: vector lanes run along the columns.
template <class T>
GALAGO_INLINE void softmax_columns(const T* x, T* out, int64_t n, int64_t H) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  constexpr int64_t width = 16;
  for (int64_t h0 = 0; h0 < H; h0 += width) {
    const int64_t w = std::min(width, H - h0);
    T top[width], sum[width];
    for (int64_t l = 0; l < width; l++) top[l] = lowest, sum[l] = 0;
    for (int64_t j = 0; j < n; j++)
      for (int64_t l = 0; l < w; l++) top[l] = std::max(top[l], x[j * H + h0 + l]);
    for (int64_t l = 0; l < w; l++) top[l] = top[l] == lowest ? T(0) : top[l];
    for (int64_t j = 0; j < n; j++)
      for (int64_t l = 0; l < w; l++) {
        const T e = fast_exp(x[j * H + h0 + l] - top[l]);
        out[j * H + h0 + l] = e;
        sum[l] += e;
      }
    for (int64_t l = 0; l < w; l++) sum[l] = sum[l] == 0 ? T(0) : 1 / sum[l];
    for (int64_t j = 0; j < n; j++)
      for (int64_t l = 0; l < w; l++) out[j * H + h0 + l] *= sum[l];
  }
}

template <class T>
GALAGO_INLINE void softmax_columns_backward(const T* p, const T* dp, T* dx, int64_t n, int64_t H) {
  constexpr int64_t width = 16;
  for (int64_t h0 = 0; h0 < H; h0 += width) {
    const int64_t w = std::min(width, H - h0);
    T delta[width] = {};
    for (int64_t j = 0; j < n; j++)
      for (int64_t l = 0; l < w; l++) delta[l] += p[j * H + h0 + l] * dp[j * H + h0 + l];
    for (int64_t j = 0; j < n; j++)
      for (int64_t l = 0; l < w; l++) dx[j * H + h0 + l] = p[j * H + h0 + l] * (dp[j * H + h0 + l] - delta[l]);
  }
}

}  // namespace

void segment_softmax_forward(const Tensor& x, const Tensor& offsets, Tensor& out) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t rows = x.shape[0], H = x.rank == 1 ? 1 : x.columns();
    const std::vector<int32_t> checked = checked_offsets("segmentSoftmax", "offsets", offsets, rows);
    const T* px = x.data<T>();
    T* po = out.data<T>();
    const int32_t* bounds = checked.data();
    const int64_t B = offsets.size() - 1;
    zero_outside(po, checked, rows, H);
    for_rows<T>(B, B > 0 ? rows * H / B + 1 : 1, [=](int64_t b) GALAGO_INLINE_BODY {
      const int64_t at = bounds[b] * H, n = bounds[b + 1] - bounds[b];
      if (H == 1)
        softmax_row(px + at, po + at, n);
      else
        softmax_columns(px + at, po + at, n, H);
    });
  });
}

void segment_softmax_backward(const Tensor& out, const Tensor& offsets, const Tensor& dout, Tensor& dx) {
  dispatch_float(out.dtype, [&]<class T>() {
    const int64_t rows = out.shape[0], H = out.rank == 1 ? 1 : out.columns();
    const std::vector<int32_t> checked = checked_offsets("segmentSoftmax", "offsets", offsets, rows);
    const T *po = out.data<T>(), *pd = dout.data<T>();
    T* pdx = dx.data<T>();
    const int32_t* bounds = checked.data();
    const int64_t B = offsets.size() - 1;
    zero_outside(pdx, checked, rows, H);
    for_rows<T>(B, B > 0 ? rows * H / B + 1 : 1, [=](int64_t b) GALAGO_INLINE_BODY {
      const int64_t at = bounds[b] * H, n = bounds[b + 1] - bounds[b];
      if (H == 1)
        softmax_row_backward(po + at, pd + at, pdx + at, n);
      else
        softmax_columns_backward(po + at, pd + at, pdx + at, n, H);
    });
  });
}

}  // namespace galago::cpu
