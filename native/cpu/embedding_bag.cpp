// Weighted sums or means of table rows, one per bag. Backward of the table is row-sparse (source = bag, weight = factor).
#include "dispatch.h"
#include "offsets.h"
#include "prefetch.h"

namespace galago::cpu {

void embedding_bag_forward(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& weights, Tensor& out,
                           Tensor& source, Tensor& factor, bool mean) {
  const int64_t V = table.shape[0], D = table.columns(), total = indices.size(), B = offsets.size() - 1;
  const std::vector<int32_t> offset = checked_offsets("embeddingBag", "offsets", offsets, total);
  const int32_t* index = indices.data<int32_t>();
  int32_t* bag_of = source.data<int32_t>();
  dispatch_float(table.dtype, [&]<class T>() {
    constexpr int64_t part = 64;
    const T *rows = table.data<T>(), *weight = weights.data<T>();
    T *to = out.data<T>(), *scale = factor.data<T>();
    parallel_for(B, row_grain(D * std::max<int64_t>(1, total / std::max<int64_t>(B, 1))), [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; b++) {
        const int64_t begin = offset[size_t(b)], end = offset[size_t(b) + 1];
        T* sum = to + b * D;
        int64_t present = 0;
        for (int64_t i = begin; i < end; i++) {
          if (index[i] >= V) index_error("embeddingBag", "indices", i, index[i], V);
          present += index[i] >= 0 && index[i] < V;
        }
        const T share = mean && present > 0 ? T(1) / T(present) : T(1);
        for (int64_t i = begin; bag_of && i < end; i++) {
          bag_of[i] = int32_t(b);
          scale[i] = (weight ? weight[i] : T(1)) * share;
        }
        // a part of the columns at a time, summed in registers
        vectorize<T>([=] {
          for (int64_t d0 = 0; d0 < D; d0 += part) {
            const int64_t n = std::min(part, D - d0);
            T part_sum[part] = {};
            for (int64_t i = begin; i < end; i++) {
              const int64_t later = d0 == 0 && i + prefetch_distance < total ? index[i + prefetch_distance] : -1;
              if (later >= 0 && later < V) prefetch_row(rows + later * D, D * int64_t(sizeof(T)));
              if (index[i] < 0 || index[i] >= V) continue;
              const T f = (weight ? weight[i] : T(1)) * share;
              const T* row = rows + index[i] * D + d0;
              if (n == part)
                for (int64_t d = 0; d < part; d++) part_sum[d] += f * row[d];
              else
                for (int64_t d = 0; d < n; d++) part_sum[d] += f * row[d];
            }
            for (int64_t d = 0; d < n; d++) sum[d0 + d] = part_sum[d];
          }
        });
      }
    });
    if (!bag_of) return;
    const auto no_bag = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        bag_of[i] = -1;
        scale[i] = 0;
      }
    };
    no_bag(0, offset.front());
    no_bag(offset.back(), total);
  });
}

void embedding_bag_backward_weights(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& dout, Tensor& dweights,
                                    bool mean) {
  const int64_t V = table.shape[0], D = table.columns(), total = indices.size(), B = offsets.size() - 1;
  const std::vector<int32_t> offset = checked_offsets("embeddingBag", "offsets", offsets, total);
  const int32_t* index = indices.data<int32_t>();
  dispatch_float(table.dtype, [&]<class T>() {
    const T *rows = table.data<T>(), *g = dout.data<T>();
    T* dw = dweights.data<T>();
    for (int64_t i = 0; i < total; i++) dw[i] = 0;
    parallel_for(B, row_grain(D * std::max<int64_t>(1, total / std::max<int64_t>(B, 1))), [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; b++) {
        const int64_t begin = offset[size_t(b)], end = offset[size_t(b) + 1];
        int64_t present = 0;
        for (int64_t i = begin; i < end; i++) present += index[i] >= 0 && index[i] < V;
        const T share = mean && present > 0 ? T(1) / T(present) : T(1);
        const T* gradient = g + b * D;
        for (int64_t i = begin; i < end; i++) {
          if (index[i] < 0 || index[i] >= V) continue;
          const T* row = rows + index[i] * D;
          vectorize<T>([=] { dw[i] = share * lane_sum<T>(D, [=](int64_t d) GALAGO_INLINE_BODY { return gradient[d] * row[d]; }); });
        }
      }
    });
  });
}

}  // namespace galago::cpu
