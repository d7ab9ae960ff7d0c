// Weighted sums or means of table rows, one per bag. Backward of the table is row-sparse (source = bag, weight = factor).
#include "dispatch.h"
#include "jagged.h"

namespace galago::cpu {

void embedding_bag_forward(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& weights, Tensor& out,
                           Tensor& source, Tensor& factor, bool mean) {
  const int64_t V = table.shape[0], D = table.columns(), total = indices.size(), B = offsets.size() - 1;
  check_offsets("embeddingBag", offsets, total);
  const int32_t *index = indices.data<int32_t>(), *offset = offsets.data<int32_t>();
  int32_t* bag_of = source.data<int32_t>();
  dispatch_float(table.dtype, [&]<class T>() {
    const T *rows = table.data<T>(), *weight = weights.data<T>();
    T *to = out.data<T>(), *scale = factor.data<T>();
    parallel_for(B, row_grain(D * std::max<int64_t>(1, total / std::max<int64_t>(B, 1))), [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; b++) {
        const auto [begin, end] = jagged_row(offset, b, total);
        T* sum = to + b * D;
        for (int64_t d = 0; d < D; d++) sum[d] = 0;
        int64_t present = 0;
        for (int64_t i = begin; i < end; i++) {
          if (index[i] >= V) index_error("embeddingBag", "indices", i, index[i], V);
          present += index[i] >= 0 && index[i] < V;
        }
        const T share = mean && present > 0 ? T(1) / T(present) : T(1);
        for (int64_t i = begin; i < end; i++) {
          const T f = (weight ? weight[i] : T(1)) * share;
          if (bag_of) {
            bag_of[i] = int32_t(b);
            scale[i] = f;
          }
          if (index[i] < 0 || index[i] >= V) continue;
          const T* row = rows + index[i] * D;
          vectorize([=] {
            for (int64_t d = 0; d < D; d++) sum[d] += f * row[d];
          });
        }
      }
    });
    if (!bag_of) return;
    for (int64_t i = B > 0 ? jagged_row(offset, B - 1, total).end : 0; i < total; i++) {
      bag_of[i] = -1;
      scale[i] = 0;
    }
  });
}

void embedding_bag_backward_weights(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& dout, Tensor& dweights,
                                    bool mean) {
  const int64_t V = table.shape[0], D = table.columns(), total = indices.size(), B = offsets.size() - 1;
  const int32_t *index = indices.data<int32_t>(), *offset = offsets.data<int32_t>();
  dispatch_float(table.dtype, [&]<class T>() {
    const T *rows = table.data<T>(), *g = dout.data<T>();
    T* dw = dweights.data<T>();
    for (int64_t i = 0; i < total; i++) dw[i] = 0;
    parallel_for(B, row_grain(D * std::max<int64_t>(1, total / std::max<int64_t>(B, 1))), [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; b++) {
        const auto [begin, end] = jagged_row(offset, b, total);
        int64_t present = 0;
        for (int64_t i = begin; i < end; i++) present += index[i] >= 0 && index[i] < V;
        const T share = mean && present > 0 ? T(1) / T(present) : T(1);
        const T* gradient = g + b * D;
        for (int64_t i = begin; i < end; i++) {
          if (index[i] < 0 || index[i] >= V) continue;
          const T* row = rows + index[i] * D;
          vectorize([=] { dw[i] = share * lane_sum<T>(D, [=](int64_t d) GALAGO_INLINE_BODY { return gradient[d] * row[d]; }); });
        }
      }
    });
  });
}

}  // namespace galago::cpu
