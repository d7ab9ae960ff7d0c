/*
reduce_sum: out = scale * sum of x over some dimensions, in float32.
Neighbouring dimensions that are both kept or both summed are merged; then a summed one has kept ones around it at most, and is summed
along rows (row_sums.cuh) or down columns (column_sums.cuh), in chunks that follow from the shape. Nearly always there is only one.
*/
#include <memory>
#include <vector>

#include "../core/reduction.h"
#include "column_sums.cuh"
#include "row_sums.cuh"

namespace galago::cuda {

namespace {

// x (outer, middle, inner) -> out (outer, inner), summed over the middle.
template <class From, class To>
void sum_middle(const From* x, To* out, int64_t outer, int64_t middle, int64_t inner, float scale) {
  if (inner == 1)
    row_sums(ArrayTerm<1, From>{x, 0}, outer, middle, RowOutputs<1, To>{{out}}, scale);
  else
    column_sums(x, outer, middle, inner, out, scale);
}

// Sums one dimension after the other, the last one first.
template <class From, class T>
void sum_dimensions(const From* x, T* out, std::vector<ReductionDimension> dimensions, float scale) {
  size_t at = dimensions.size(), summed = 0;
  for (size_t d = 0; d < dimensions.size(); d++)
    if (dimensions[d].summed) at = d, summed++;
  int64_t outer = 1, middle = 1, inner = 1;
  for (size_t d = 0; d < dimensions.size(); d++) (d < at ? outer : d == at ? middle : inner) *= dimensions[d].size;
  if (summed == 0) return sum_middle(x, out, outer, 1, 1, scale);
  if (summed == 1) return sum_middle(x, out, outer, middle, inner, scale);
  const Scratch<float> partial(outer * inner);
  sum_middle(x, partial.data(), outer, middle, inner, 1.0f);
  dimensions.erase(dimensions.begin() + int64_t(at));
  sum_dimensions<float>(partial.data(), out, dimensions, scale);
}

}  // namespace

// ---- launchers

void reduce_sum(const Tensor& x, Tensor& out, double scale) {
  if (x.size() == 0) return fill(out, 0);
  dispatch_float(x.dtype, [&]<class T>() { sum_dimensions(x.data<T>(), out.data<T>(), reduction_dimensions(x, out), float(scale)); });
}

}  // namespace galago::cuda
