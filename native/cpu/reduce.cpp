/*
reduce_sum: out = scale * sum of x over some dimensions.
Neighbouring dimensions that are both kept or both summed are merged first; then a summed one has kept ones around it at most.
Long sums go in fixed chunks whose partials are added in order.
*/
#include <vector>

#include "../core/reduction.h"
#include "dispatch.h"

namespace galago::cpu {

namespace {

// out[c] = scale * sum_r x[r * columns + c]
template <class T>
void sum_rows(const T* x, T* out, int64_t rows, int64_t columns, T scale) {
  constexpr int64_t chunk_rows = 256;
  const int64_t chunks = chunk_count(rows, chunk_rows);
  std::vector<T> partials(size_t(chunks * columns));
  parallel_for(rows, chunk_rows, [&](int64_t begin, int64_t end) {
    vectorize<T>([&] {
      T* partial = partials.data() + begin / chunk_rows * columns;
      for (int64_t c = 0; c < columns; c++) partial[c] = 0;
      for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < columns; c++) partial[c] += x[r * columns + c];
    });
  });
  for (int64_t c = 0; c < columns; c++) out[c] = 0;
  for (int64_t k = 0; k < chunks; k++)
    for (int64_t c = 0; c < columns; c++) out[c] += partials[size_t(k * columns + c)];
  for (int64_t c = 0; c < columns; c++) out[c] *= scale;
}

template <class T>
void sum_all(const T* x, T* out, int64_t n, T scale) {
  const int64_t chunks = chunk_count(n, element_grain);
  std::vector<T> partials(size_t(chunks), T(0));
  parallel_for(n, element_grain, [&](int64_t begin, int64_t end) {
    vectorize<T>([&] {
      partials[size_t(begin / element_grain)] = lane_sum<T>(end - begin, [&](int64_t i) GALAGO_INLINE_BODY { return x[begin + i]; });
    });
  });
  T total = 0;
  for (const T partial : partials) total += partial;
  *out = total * scale;
}

// x (outer, middle, inner) -> out (outer, inner), summed over the middle.
template <class T>
void sum_middle(const T* x, T* out, int64_t outer, int64_t middle, int64_t inner, T scale) {
  if (inner == 1 && outer == 1) return sum_all(x, out, middle, scale);
  if (outer == 1) return sum_rows(x, out, middle, inner, scale);
  parallel_for(outer, row_grain(middle * inner), [&](int64_t begin, int64_t end) {
    vectorize<T>([&] {
      for (int64_t o = begin; o < end; o++) {
        const T* block = x + o * middle * inner;
        if (inner == 1) {
          out[o] = scale * lane_sum<T>(middle, [&](int64_t i) GALAGO_INLINE_BODY { return block[i]; });
          continue;
        }
        T* row = out + o * inner;
        for (int64_t c = 0; c < inner; c++) row[c] = 0;
        for (int64_t m = 0; m < middle; m++)
          for (int64_t c = 0; c < inner; c++) row[c] += block[m * inner + c];
        for (int64_t c = 0; c < inner; c++) row[c] *= scale;
      }
    });
  });
}

}  // namespace

void reduce_sum(const Tensor& x, Tensor& out, double scale_argument) {
  std::vector<ReductionDimension> dimensions = reduction_dimensions(x, out);
  dispatch_float(x.dtype, [&]<class T>() {
    const T* from = x.data<T>();
    T* po = out.data<T>();
    if (x.size() == 0) return fill(out, 0);
    // One summed dimension at a time, the last one first; nearly always there is only one.
    std::vector<T> temporary;
    for (;;) {
      size_t at = dimensions.size(), summed = 0;
      for (size_t d = 0; d < dimensions.size(); d++)
        if (dimensions[d].summed) at = d, summed++;
      int64_t outer = 1, middle = 1, inner = 1;
      for (size_t d = 0; d < dimensions.size(); d++) (d < at ? outer : d == at ? middle : inner) *= dimensions[d].size;
      if (summed <= 1) return sum_middle(from, po, outer, middle, inner, T(scale_argument));
      std::vector<T> partial(static_cast<size_t>(outer * inner));
      sum_middle(from, partial.data(), outer, middle, inner, T(1));
      temporary.swap(partial);
      from = temporary.data();
      dimensions.erase(dimensions.begin() + int64_t(at));
    }
  });
}

}  // namespace galago::cpu
