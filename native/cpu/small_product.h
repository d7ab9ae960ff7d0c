/*
Products of matrices that fit the first-level cache, where packing and tiling of matmul.h would cost more than the product:
C (M, X) = sum over k of a(m, k) b(k, x). Vector lanes run along x, so rows of b and C are contiguous; a is read one value at a
time with any strides, so a transposed matrix costs nothing.
*/
#pragma once
#include "isa.h"

namespace galago::cpu {

// R rows by W columns of C in registers.
template <class T, int R, int W>
GALAGO_INLINE void small_product_tile(int64_t K, const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t ldb, T* c, int64_t ldc,
                                      bool accumulate) {
  typedef T Vector __attribute__((vector_size(W * sizeof(T))));
  typedef T Memory __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias));
  Vector sum[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sum[r] = Vector{};
  for (int64_t k = 0; k < K; k++) {
    const Vector row = *reinterpret_cast<const Memory*>(b + k * ldb);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sum[r] += a[r * a_row + k * a_column] * row;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    Memory* out = reinterpret_cast<Memory*>(c + r * ldc);
    *out = accumulate ? *out + sum[r] : sum[r];
  }
}

template <class T, int W>
GALAGO_INLINE void small_product_columns(int64_t M, int64_t K, const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t ldb, T* c,
                                         int64_t ldc, bool accumulate) {
  int64_t m = 0;
  for (; m + 8 <= M; m += 8) small_product_tile<T, 8, W>(K, a + m * a_row, a_row, a_column, b, ldb, c + m * ldc, ldc, accumulate);
  if (m + 4 <= M) {
    small_product_tile<T, 4, W>(K, a + m * a_row, a_row, a_column, b, ldb, c + m * ldc, ldc, accumulate);
    m += 4;
  }
  for (; m < M; m++) small_product_tile<T, 1, W>(K, a + m * a_row, a_row, a_column, b, ldb, c + m * ldc, ldc, accumulate);
}

// c[m * ldc + x] (+)= sum over k < K of a[m * a_row + k * a_column] * b[k * ldb + x], for m < M and x < X. K = 0 gives 0.
template <class T>
[[gnu::noinline]] void small_product(int64_t M, int64_t X, int64_t K, const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t ldb,
                                     T* c, int64_t ldc, bool accumulate) {
  if constexpr (std::is_same_v<T, double>) {  // as isa.h says: small instead of fast
    for (int64_t m = 0; m < M; m++) {
      for (int64_t x = 0; x < X; x++) {
        T sum = accumulate ? c[m * ldc + x] : T(0);
        for (int64_t k = 0; k < K; k++) sum += a[m * a_row + k * a_column] * b[k * ldb + x];
        c[m * ldc + x] = sum;
      }
    }
  } else {
    vectorize<T>([=] {
      int64_t x = 0;
      for (; x + 16 <= X; x += 16) small_product_columns<T, 16>(M, K, a, a_row, a_column, b + x, ldb, c + x, ldc, accumulate);
      if (x + 8 <= X) {
        small_product_columns<T, 8>(M, K, a, a_row, a_column, b + x, ldb, c + x, ldc, accumulate);
        x += 8;
      }
      if (x + 4 <= X) {
        small_product_columns<T, 4>(M, K, a, a_row, a_column, b + x, ldb, c + x, ldc, accumulate);
        x += 4;
      }
      for (; x < X; x++) small_product_columns<T, 1>(M, K, a, a_row, a_column, b + x, ldb, c + x, ldc, accumulate);
    });
  }
}

}  // namespace galago::cpu
