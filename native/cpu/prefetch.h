// Rows of a large table lie anywhere in memory: the row of a later lookup is asked for while this one is worked on.
#pragma once
#include <algorithm>
#include <cstdint>

namespace galago::cpu {

constexpr int64_t prefetch_distance = 16;  // lookups ahead

inline void prefetch_row(const void* row, int64_t bytes) {
  const char* p = static_cast<const char*>(row);
  for (int64_t b = 0; b < std::min<int64_t>(bytes, 1024); b += 64) __builtin_prefetch(p + b);
}

}  // namespace galago::cpu
