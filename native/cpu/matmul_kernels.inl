/*
The parts of matmul.cpp that depend on the instruction set. Included once per instruction set, inside its own namespace, with
  MATMUL_TARGET         the target attribute of every function, or nothing
  MATMUL_VECTOR_BYTES   bytes of a vector register
  MATMUL_MAX_ROWS       rows of the largest tile: MATMUL_MAX_ROWS * 2 accumulators, 2 vectors of B, 1 broadcast of A

Vectors are the compiler's generic ones, so float32 and float64, and every instruction set, share this text.
*/

struct Vector {
  static constexpr int lanes = MATMUL_VECTOR_BYTES / static_cast<int>(sizeof(float));
  typedef float Register __attribute__((vector_size(MATMUL_VECTOR_BYTES)));
  typedef float Memory __attribute__((vector_size(MATMUL_VECTOR_BYTES), aligned(sizeof(float)), may_alias));
  typedef float Four __attribute__((vector_size(4 * sizeof(float)), aligned(sizeof(float)), may_alias));
};

// One tile: c (ROWS, VECTORS * lanes) = alpha * a b + beta * c, summed over k steps. b is read as k rows of full vectors.
// A_BY_ROWS: a[i * lda + p], a matrix as it lies in memory; else a[p * lda + i], a packed panel or a transposed matrix.
template <bool A_BY_ROWS, int ROWS, int VECTORS>
MATMUL_TARGET static void tile_kernel(int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float alpha, float beta, float* c,
                                      int64_t ldc) {
  using Register = Vector::Register;
  using Memory = Vector::Memory;
  constexpr int lanes = Vector::lanes;
  Register sum[ROWS][VECTORS] = {};

  if constexpr (A_BY_ROWS) {
    int64_t p = 0;
    for (; p + 4 <= k; p += 4) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        Register bv[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) bv[v] = *reinterpret_cast<const Memory*>(b + v * lanes);
        b += ldb;
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 2
          for (int v = 0; v < VECTORS; ++v) sum[i][v] += a[i * lda + u] * bv[v];
        }
      }
      a += 4;
    }
    for (; p < k; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) {
        const Register bv = *reinterpret_cast<const Memory*>(b + v * lanes);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) sum[i][v] += a[i * lda] * bv;
      }
      a += 1;
      b += ldb;
    }
  } else {
    for (int64_t p = 0; p < k; ++p) {
      Register bv[VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) bv[v] = *reinterpret_cast<const Memory*>(b + v * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) sum[i][v] += a[i] * bv[v];
      }
      a += lda;
      b += ldb;
    }
  }

#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) {
      Memory* out = reinterpret_cast<Memory*>(c + i * ldc + v * lanes);
      // beta 0 must not read c: fresh memory may hold NaN
      if (beta == 0.0f) {
        *out = alpha * sum[i][v];
      } else {
        *out = alpha * sum[i][v] + beta * *out;
      }
    }
  }
}

// 4 x 4 transpose through shuffles: target[p * width + j] = source[j * ld + p].
MATMUL_TARGET static inline void transpose_4x4(const float* source, int64_t ld, float* target, int64_t width) {
  using Four = Vector::Four;
  const Four r0 = *reinterpret_cast<const Four*>(source);
  const Four r1 = *reinterpret_cast<const Four*>(source + ld);
  const Four r2 = *reinterpret_cast<const Four*>(source + 2 * ld);
  const Four r3 = *reinterpret_cast<const Four*>(source + 3 * ld);
  const Four low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5), high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
  *reinterpret_cast<Four*>(target) = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(target + width) = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  *reinterpret_cast<Four*>(target + 2 * width) = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(target + 3 * width) = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

// target (rows, columns) of leading dimension target_ld = transpose of source (columns, rows).
MATMUL_TARGET static void transpose(const float* source, int64_t source_ld, float* target, int64_t target_ld, int64_t rows,
                                    int64_t columns) {
  int64_t p = 0;
  for (; p + 16 <= rows; p += 16) {
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      for (int q = 0; q < 16; q += 4) {
        transpose_4x4(source + j * source_ld + p + q, source_ld, target + (p + q) * target_ld + j, target_ld);
      }
    }
    for (; j < columns; ++j) {
      for (int q = 0; q < 16; ++q) target[(p + q) * target_ld + j] = source[j * source_ld + p + q];
    }
  }
  for (; p < rows; ++p) {
    for (int64_t j = 0; j < columns; ++j) target[p * target_ld + j] = source[j * source_ld + p];
  }
}

// A panel: target[p * width + j] for p < k, j < width; columns from `valid` on are zero.
// by_columns: the source holds element (p, j) at source[j * ld + p], else at source[p * ld + j].
MATMUL_TARGET static void pack_panel(bool by_columns, const float* source, int64_t ld, int64_t k, int64_t valid, int64_t width,
                                     float* target) {
  if (by_columns) {
    transpose(source, ld, target, width, k, valid);
  } else {
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t j = 0; j < valid; ++j) target[p * width + j] = source[p * ld + j];
    }
  }
  if (valid == width) return;
  for (int64_t p = 0; p < k; ++p) {
    for (int64_t j = valid; j < width; ++j) target[p * width + j] = 0.0f;
  }
}

template <bool A_BY_ROWS, int... ROWS>
static void fill_tiles(Kernels& kernels, std::integer_sequence<int, ROWS...>) {
  ((kernels.tile[A_BY_ROWS][0][ROWS + 1] = tile_kernel<A_BY_ROWS, ROWS + 1, 1>), ...);
  ((kernels.tile[A_BY_ROWS][1][ROWS + 1] = tile_kernel<A_BY_ROWS, ROWS + 1, 2>), ...);
}

static Kernels make_kernels() {
  Kernels kernels{};
  kernels.max_rows = MATMUL_MAX_ROWS;
  kernels.lanes = Vector::lanes;
  fill_tiles<false>(kernels, std::make_integer_sequence<int, MATMUL_MAX_ROWS>{});
  fill_tiles<true>(kernels, std::make_integer_sequence<int, MATMUL_MAX_ROWS>{});
  kernels.transpose = transpose;
  kernels.pack_panel = pack_panel;
  return kernels;
}

#undef MATMUL_TARGET
#undef MATMUL_VECTOR_BYTES
#undef MATMUL_MAX_ROWS
