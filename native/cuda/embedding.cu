/*
Rows of a table by index (copy_rows.cuh). The gradient of the table is row-sparse: it is dout and the indices themselves, so there is no
backward kernel.
*/
#include "copy_rows.cuh"

namespace galago::cuda {

// ---- launchers

void embedding_forward(const Tensor& table, const Tensor& indices, Tensor& out) {
  const int64_t V = table.shape[0];
  copy_rows(table.data<void>(), V, table.columns() * int64_t(size_of(table.dtype)), indices, out.data<void>(),
            index_report("embedding", "indices", V));
}

}  // namespace galago::cuda
