// Mean and deviation of each column over the batch: shared by batch_norm and dice.
#pragma once
#include <cmath>

#include "row_loops.h"

namespace galago::cpu {

// mean and rstd = 1 / sqrt(variance + eps) of the columns of x (B, D). In training they are of this batch and move the running values:
// running += momentum * (batch - running), with the unbiased variance (B - 1; the biased one when B is 1). Otherwise they are the
// running values. An empty batch is treated as if not in training.
template <class T>
void batch_statistics(const T* x, int64_t B, int64_t D, T* running_mean, T* running_var, T* mean, T* rstd, bool training, double momentum,
                      double eps) {
  if (!training || B == 0) {
    for (int64_t c = 0; c < D; c++) {
      mean[c] = running_mean[c];
      rstd[c] = 1 / std::sqrt(running_var[c] + T(eps));
    }
    return;
  }
  sum_over_rows(B, D, mean, [=](int64_t r, T* sums) GALAGO_INLINE_BODY {
    for (int64_t c = 0; c < D; c++) sums[c] += x[r * D + c];
  });
  for (int64_t c = 0; c < D; c++) mean[c] /= T(B);
  sum_over_rows(B, D, rstd, [=](int64_t r, T* sums) GALAGO_INLINE_BODY {
    for (int64_t c = 0; c < D; c++) sums[c] += (x[r * D + c] - mean[c]) * (x[r * D + c] - mean[c]);
  });
  for (int64_t c = 0; c < D; c++) {
    const T squares = rstd[c];
    if (std::isfinite(squares)) {  // then the mean is; the optimizer skips such a step, which is to leave no trace
      running_mean[c] += T(momentum) * (mean[c] - running_mean[c]);
      running_var[c] += T(momentum) * (squares / T(B > 1 ? B - 1 : 1) - running_var[c]);
    }
    rstd[c] = 1 / std::sqrt(squares / T(B) + T(eps));
  }
}

}  // namespace galago::cpu
