// What reduce_sum sums over, for both backends: x's dimensions with neighbours of one kind merged and those of size 1 left out.
#pragma once
#include <vector>

#include "error.h"
#include "tensor.h"

namespace galago {

struct ReductionDimension {
  int64_t size;
  bool summed;
};

inline std::vector<ReductionDimension> reduction_dimensions(const Tensor& x, const Tensor& out) {
  std::vector<ReductionDimension> dimensions;
  const int shift = x.rank - out.rank;
  for (int d = 0; d < x.rank; d++) {
    const int64_t kept = d < shift ? 1 : out.shape[d - shift];
    CHECK(kept == 1 || kept == x.shape[d], "reduce_sum: shapes do not match");
    if (x.shape[d] == 1) continue;
    const bool summed = kept == 1;
    if (!dimensions.empty() && dimensions.back().summed == summed) {
      dimensions.back().size *= x.shape[d];
    } else {
      dimensions.push_back({x.shape[d], summed});
    }
  }
  return dimensions;
}

}  // namespace galago
