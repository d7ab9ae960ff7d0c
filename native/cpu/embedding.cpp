// Rows of a table by index. The gradient of the table is row-sparse: it is dout and the indices themselves, so there is no kernel.
#include <cstring>

#include "dispatch.h"
#include "prefetch.h"

namespace galago::cpu {

void embedding_forward(const Tensor& table, const Tensor& indices, Tensor& out) {
  const int64_t V = table.shape[0];
  const size_t row_bytes = size_t(table.columns()) * size_of(table.dtype);
  const char* rows = table.data<char>();
  const int32_t* index = indices.data<int32_t>();
  char* to = out.data<char>();
  parallel_for(indices.size(), row_grain(table.columns()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t later = i + prefetch_distance < end ? index[i + prefetch_distance] : -1;
      if (later >= 0 && later < V) prefetch_row(rows + size_t(later) * row_bytes, int64_t(row_bytes));
      if (index[i] >= V) index_error("embedding", "indices", i, index[i], V);
      if (index[i] < 0 || index[i] >= V)
        std::memset(to + size_t(i) * row_bytes, 0, row_bytes);
      else
        std::memcpy(to + size_t(i) * row_bytes, rows + size_t(index[i]) * row_bytes, row_bytes);
    }
  });
}

}  // namespace galago::cpu
