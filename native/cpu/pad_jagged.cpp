// Jagged rows into a rectangle padded with zeros, and back.
#include <cstring>

#include "dispatch.h"
#include "offsets.h"

namespace galago::cpu {

void pad_jagged_forward(const Tensor& x, const Tensor& offsets, Tensor& out) {
  const int64_t total = x.shape[0], B = out.shape[0], L = out.shape[1], D = out.rank == 3 ? out.shape[2] : 1;
  const std::vector<int32_t> offset = checked_offsets("padJagged", "offsets", offsets, total);
  const size_t entry = size_t(D) * size_of(x.dtype);
  const char* from = x.data<char>();
  char* to = out.data<char>();
  parallel_for(B, row_grain(L * D), [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; b++) {
      const int64_t begin = offset[size_t(b)], length = offset[size_t(b) + 1] - begin;
      const size_t kept = size_t(std::min(length, L));
      char* cell = to + size_t(b * L) * entry;
      std::memcpy(cell, from + size_t(begin) * entry, kept * entry);
      std::memset(cell + kept * entry, 0, (size_t(L) - kept) * entry);
    }
  });
}

void pad_jagged_backward(const Tensor& dout, const Tensor& offsets, Tensor& dx) {
  const int64_t total = dx.shape[0], B = dout.shape[0], L = dout.shape[1], D = dout.rank == 3 ? dout.shape[2] : 1;
  const std::vector<int32_t> offset = checked_offsets("padJagged", "offsets", offsets, total);
  const size_t entry = size_t(D) * size_of(dx.dtype);
  const char* from = dout.data<char>();
  char* to = dx.data<char>();
  parallel_for(B, row_grain(L * D), [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; b++) {
      const int64_t begin = offset[size_t(b)], length = offset[size_t(b) + 1] - begin;
      const size_t kept = size_t(std::min(length, L));
      char* cell = to + size_t(begin) * entry;
      std::memcpy(cell, from + size_t(b * L) * entry, kept * entry);
      std::memset(cell + kept * entry, 0, (size_t(length) - kept) * entry);
    }
  });
  const size_t before = size_t(offset.front()), covered = size_t(offset.back());
  std::memset(to, 0, before * entry);
  std::memset(to + covered * entry, 0, (size_t(total) - covered) * entry);
}

}  // namespace galago::cpu
