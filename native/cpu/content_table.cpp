/*
The last encoded vector of every item, by item row: read with a join of rows staged in this step, and commit.
A row is replaced whole; rows that are not finite or all zero are refused and counted.
*/
#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "usable_row.h"

namespace galago::cpu {

void content_table_read(const Tensor& rows, const Tensor& steps, const Tensor& keys, const Tensor& staged_keys, const Tensor& staged,
                        Tensor& out, Tensor& age, int64_t now) {
  const int64_t items = steps.size(), row_bytes = out.columns() * int64_t(size_of(rows.dtype));
  const int32_t *key = keys.data<int32_t>(), *step = steps.data<int32_t>(), *fresh_key = staged_keys.data<int32_t>();
  const int32_t* fresh_end = fresh_key + (staged_keys ? staged_keys.size() : 0);
  const char *table = rows.data<char>(), *fresh = staged.data<char>();
  char* po = out.data<char>();
  int32_t* page = age.data<int32_t>();
  parallel_for(keys.size(), row_grain(out.columns()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t k = key[i];
      char* row = po + i * row_bytes;
      if (k >= items) index_error("content_table_read", "keys", i, k, items);
      const int32_t* found = fresh_key ? std::lower_bound(fresh_key, fresh_end, k) : fresh_end;
      if (k >= 0 && found != fresh_end && *found == k) {
        std::memcpy(row, fresh + (found - fresh_key) * row_bytes, size_t(row_bytes));
        page[i] = 0;
      } else if (k >= 0 && k < items && step[k] >= 0) {
        std::memcpy(row, table + k * row_bytes, size_t(row_bytes));
        page[i] = int32_t(now) - step[k];
      } else {
        std::memset(row, 0, size_t(row_bytes));
        page[i] = -1;
      }
    }
  });
}

void content_table_commit(Tensor& rows, Tensor& steps, Tensor& refused, const Tensor& staged_keys, const Tensor& staged,
                          const Tensor& factor, int64_t now) {
  const int64_t items = steps.size(), d = rows.columns();
  if (factor && !(*factor.data<double>() > 0)) return;  // NaN: the step was skipped, it leaves no trace
  const int32_t* key = staged_keys.data<int32_t>();
  int32_t* step = steps.data<int32_t>();
  dispatch_float(rows.dtype, [&]<class T>() {
    const T* fresh = staged.data<T>();
    T* table = rows.data<T>();
    for (int64_t i = 0; i < staged_keys.size(); i++) {
      if (key[i] < 0 || key[i] >= items) {
        index_error("content_table_commit", "staged_keys", i, key[i], items);
        continue;
      }
      const T* row = fresh + i * d;
      if (!usable_row(reinterpret_cast<const std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>*>(row), d)) {
        ++*refused.data<int32_t>();
        continue;
      }
      std::memcpy(table + key[i] * d, row, size_t(d) * sizeof(T));
      step[key[i]] = int32_t(now);
    }
  });
}

}  // namespace galago::cpu
