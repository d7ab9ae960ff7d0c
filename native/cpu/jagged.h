// Rows of jagged data: row b holds entries offsets[b] .. offsets[b+1). Entries past offsets[B] are capacity and belong to no row.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../core/error.h"
#include "../core/tensor.h"

namespace galago::cpu {

struct JaggedRow {
  int64_t begin, end;
  int64_t length() const { return end - begin; }
};

// Row b, inside [0, total) whatever the offsets say.
inline JaggedRow jagged_row(const int32_t* offsets, int64_t b, int64_t total) {
  const int64_t begin = std::clamp<int64_t>(offsets[b], 0, total);
  return {begin, std::clamp<int64_t>(offsets[b + 1], begin, total)};
}

// Offsets start at 0, never fall and end at `total` or before; the first that breaks this is reported, rows are clamped.
inline void check_offsets(const char* op, const Tensor& offsets, int64_t total) {
  const int32_t* p = offsets.data<int32_t>();
  const int64_t n = offsets.size();
  if (p[0] != 0) return index_error(op, "offsets", 0, p[0], 1);
  for (int64_t b = 1; b < n; b++)
    if (p[b] < p[b - 1] || p[b] > total) return index_error(op, "offsets", b, p[b], total + 1);
}

}  // namespace galago::cpu
