// Offsets of jagged data: segment b is [offsets[b], offsets[b + 1]).
#pragma once
#include <algorithm>
#include <vector>

#include "dispatch.h"

namespace galago::cpu {

// The offsets, made safe to use: every one in [0, total] and none below the one before. The first that has to be changed becomes an
// index error of `op`.
inline std::vector<int32_t> checked_offsets(const char* op, const char* argument, const Tensor& offsets, int64_t total) {
  const int32_t* given = offsets.data<int32_t>();
  std::vector<int32_t> checked(static_cast<size_t>(offsets.size()));
  int64_t least = 0;
  bool reported = false;
  for (size_t b = 0; b < checked.size(); b++) {
    const int64_t value = std::clamp<int64_t>(given[b], least, total);
    if (value != given[b] && !reported) {
      index_error(op, argument, int64_t(b), given[b], total + 1);
      reported = true;
    }
    checked[b] = int32_t(value);
    least = value;
  }
  return checked;
}

}  // namespace galago::cpu
