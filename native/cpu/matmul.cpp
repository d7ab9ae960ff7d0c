/*
Matrix products in the manner of BLIS: panels of A and B, packed or read where they lie, and a micro-kernel that keeps a tile of
C in registers (14 x 32 float32 with AVX-512, 6 x 16 with AVX2).

  for each block of K        bounds what a tile streams from the second-level cache
    for each block of C      bounds the scratch memory
      pack what needs it     in parallel
      for each group of tiles, in parallel: for each panel of B: for each tile of rows: micro-kernel; then the epilogue

Short cuts, all chosen from the shapes alone so that results do not depend on threads:
  - an operand that is used little, or already lies as a panel, is not packed;
  - few rows times a transposed B (a small batch through a large layer) runs as C^T = op(B)^T op(A)^T: the large matrix is then
    read in rows, where it lies;
  - a long sum into a small C (a weight gradient) is cut into chunks of K, each with its own partial C, added in chunk order.
*/
#include "matmul.h"

#include <algorithm>
#include <utility>

#include "activation.h"
#include "dispatch.h"
#include "scratch.h"

namespace galago::cpu {

namespace {

constexpr int most_rows = 16;                // capacity of the kernel tables
constexpr int tile_bytes = most_rows * 128;  // two vectors of 64 bytes per row

struct Kernels {
  using Tile = void (*)(int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float alpha, float beta, float* c,
                        int64_t ldc);
  Tile tile[2][2][most_rows + 1];  // [A lies by rows][vectors - 1][rows]
  void (*transpose)(const float* source, int64_t source_ld, float* target, int64_t target_ld, int64_t rows, int64_t columns);
  void (*pack_panel)(bool by_columns, const float* source, int64_t ld, int64_t k, int64_t valid, int64_t width, float* target);
  int max_rows, lanes;
};

namespace portable {
#define MATMUL_TARGET
#define MATMUL_VECTOR_BYTES 16
#define MATMUL_MAX_ROWS 6
#include "matmul_kernels.inl"
}  // namespace portable

#if GALAGO_X86
namespace avx2 {
#define MATMUL_TARGET GALAGO_TARGET_AVX2
#define MATMUL_VECTOR_BYTES 32
#define MATMUL_MAX_ROWS 6
#include "matmul_kernels.inl"
}  // namespace avx2

namespace avx512 {
#define MATMUL_TARGET GALAGO_TARGET_AVX512
#define MATMUL_VECTOR_BYTES 64
#define MATMUL_MAX_ROWS 14
#include "matmul_kernels.inl"
}  // namespace avx512
#endif

const Kernels& kernels() {
  static const Kernels chosen = [] {
#if GALAGO_X86
    if (isa() == Isa::avx512) return avx512::make_kernels();
    if (isa() == Isa::avx2) return avx2::make_kernels();
#endif
    return portable::make_kernels();
  }();
  return chosen;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A range cut into parts whose sizes differ by one at most.
struct Partition {
  int64_t n, parts;
  Partition(int64_t n, int64_t largest) : n(n), parts(std::max<int64_t>(1, ceil_div(n, largest))) {}
  int64_t begin(int64_t part) const { return n * part / parts; }
};

// About 512 steps per block, up to 767 in one. Shorter blocks would keep the panel of B in the first-level cache, but
// passing over C more often costs more: on a Zen 5 core 512 measured 5-15 % faster than 256 where C is larger than the cache.
Partition k_blocks(int64_t K) {
  constexpr int64_t target = 512;
  Partition blocks(K, target);
  blocks.parts = std::max<int64_t>(1, (K + target / 2 - 1) / target);
  return blocks;
}

constexpr int64_t serial_work = 1 << 18;  // multiply-adds below which handing out work costs more than it brings
constexpr int64_t group_tiles = 16;       // row tiles per unit of work: 224 rows x 512 steps stay in the second-level cache
constexpr int64_t block_rows = 1344;      // rows and columns of C per block: bounds packed A and packed B to about 4 MB each
constexpr int64_t block_columns = 1536;

// Matrices as seen by the micro-kernels: after a possible swap of the sides.
struct Product {
  int64_t M, N, K;
  const float *a, *b;
  int64_t lda, ldb;
  bool a_by_rows;     // op(A)(i, p) = a[i * lda + p], else a[p * lda + i]
  bool b_by_columns;  // op(B)(p, j) = b[j * ldb + p], else b[p * ldb + j]
  bool swapped;       // this is C^T: tile (i, j) goes to c[j * ldc + i]
  float alpha, beta;
  float* c;
  int64_t ldc;
  const Epilogue<float>* epilogue;
  const float* packed_b;  // panels of op(B) for all blocks of K, or null
};

// Width of the panel that starts `columns` before the end: full panels are two vectors wide.
int64_t panel_width(int64_t columns, int64_t lanes) { return columns > lanes ? 2 * lanes : lanes; }

// Elements of packed op(B) per step of K.
int64_t packed_columns(int64_t N, int64_t lanes) { return ceil_div(N, lanes) * lanes; }

// The epilogue of a finished region of C; bias and preactivation are that region's.
template <Activation kind>
void finish(int64_t rows, int64_t columns, float* c, int64_t ldc, const float* bias, float* pre, int64_t ld_pre) {
  vectorize<float>([=] {
    for (int64_t i = 0; i < rows; ++i) {
      float* __restrict row = c + i * ldc;
      if (bias) {
        const float* __restrict addend = bias;
        for (int64_t j = 0; j < columns; ++j) row[j] += addend[j];
      }
      if (pre) {
        float* __restrict copy = pre + i * ld_pre;
        for (int64_t j = 0; j < columns; ++j) copy[j] = row[j];
      }
      for (int64_t j = 0; j < columns; ++j) row[j] = activate<kind>(row[j]);
    }
  });
}

void finish_region(const Product& p, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  if (!p.epilogue) return;
  if (p.swapped) {
    std::swap(row, column);
    std::swap(rows, columns);
  }
  const Epilogue<float>& e = *p.epilogue;
  dispatch_activation(e.activation, [&]<Activation kind>() {
    finish<kind>(rows, columns, p.c + row * p.ldc + column, p.ldc, e.bias ? e.bias + column : nullptr,
                 e.preactivation ? e.preactivation + row * e.ld_preactivation + column : nullptr, e.ld_preactivation);
  });
}

void scale(const Product& p, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) p.c[i * p.ldc + j] = p.beta == 0.0f ? 0.0f : p.beta * p.c[i * p.ldc + j];
  }
}

// Writes a tile that the micro-kernel could not put into C itself: the last columns, or a tile of C^T.
void store_tile(const Product& p, const float* tile, int64_t ld, int64_t row, int64_t rows, int64_t column, int64_t columns, float beta) {
  alignas(64) float transposed[tile_bytes / sizeof(float)];
  if (p.swapped) {
    if (beta == 0.0f) {
      kernels().transpose(tile, ld, p.c + column * p.ldc + row, p.ldc, columns, rows);
      return;
    }
    kernels().transpose(tile, ld, transposed, rows, columns, rows);
    tile = transposed;
    ld = rows;
    std::swap(row, column);
    std::swap(rows, columns);
  }
  for (int64_t i = 0; i < rows; ++i) {
    float* __restrict out = p.c + (row + i) * p.ldc + column;
    const float* __restrict in = tile + i * ld;
    if (beta == 0.0f) {
      for (int64_t j = 0; j < columns; ++j) out[j] = in[j];
    } else {
      for (int64_t j = 0; j < columns; ++j) out[j] = in[j] + beta * out[j];
    }
  }
}

void multiply(const Product& p) {
  const Kernels& kernel = kernels();
  const int64_t lanes = kernel.lanes, width = 2 * lanes;
  const Partition rows(p.M, kernel.max_rows), steps = k_blocks(p.K);
  const bool serial = p.M * p.N * p.K <= serial_work;

  // Packing costs about as much as 8 rows (of B) or 64 columns (of A) of multiplication.
  const bool pack_a =
      p.a_by_rows ? p.N >= 24 * width || (p.N >= 8 * width && p.lda % 256 == 0) : p.N >= 4 * width || (p.N >= 2 * width && p.lda >= 1024);
  const bool pack_b = !p.packed_b && (p.b_by_columns || (p.M > 4 * kernel.max_rows && p.ldb > 2 * width));

  const int64_t tiles_per_block = std::max<int64_t>(1, block_rows / kernel.max_rows);
  for (int64_t step = 0; step < steps.parts; ++step) {
    const int64_t k0 = steps.begin(step), k = steps.begin(step + 1) - k0;
    const float beta = step == 0 ? p.beta : 1.0f;
    for (int64_t n0 = 0; n0 < p.N; n0 += block_columns) {
      const int64_t n = std::min(block_columns, p.N - n0), panels = ceil_div(n, width);
      // The last panel is packed whenever it is not full: micro-kernels read whole vectors.
      const int64_t first_packed = p.packed_b ? panels : pack_b ? 0 : n / width;
      float* packed_b = first_packed < panels ? scratch<float>(ScratchSlot::matmul_b, k * packed_columns(n, lanes)) : nullptr;

      for (int64_t t0 = 0; t0 < rows.parts; t0 += tiles_per_block) {
        const int64_t tiles = std::min(tiles_per_block, rows.parts - t0);
        const int64_t m0 = rows.begin(t0), m = rows.begin(t0 + tiles) - m0;
        float* packed_a = pack_a ? scratch<float>(ScratchSlot::matmul_a, k * m) : nullptr;

        const int64_t b_jobs = t0 == 0 ? panels - first_packed : 0, a_jobs = pack_a ? tiles : 0;
        const auto pack = [&](int64_t begin, int64_t end) {
          for (int64_t job = begin; job < end; ++job) {
            if (job < b_jobs) {
              const int64_t j = (first_packed + job) * width, left = n - j;
              const float* source = p.b_by_columns ? p.b + (n0 + j) * p.ldb + k0 : p.b + k0 * p.ldb + n0 + j;
              kernel.pack_panel(p.b_by_columns, source, p.ldb, k, std::min(left, width), panel_width(left, lanes), packed_b + j * k);
            } else {
              const int64_t i = rows.begin(t0 + job - b_jobs), count = rows.begin(t0 + job - b_jobs + 1) - i;
              const float* source = p.a_by_rows ? p.a + i * p.lda + k0 : p.a + k0 * p.lda + i;
              kernel.pack_panel(p.a_by_rows, source, p.lda, k, count, count, packed_a + (i - m0) * k);
            }
          }
        };
        if (serial) {
          pack(0, b_jobs + a_jobs);
        } else {
          parallel_for(b_jobs + a_jobs, 4, pack);
        }

        // Groups of tiles: enough of them for many cores, each large enough to be worth handing out.
        const Partition row_groups(tiles, group_tiles);
        const int64_t group_work = std::max<int64_t>(1, std::min(m, group_tiles * kernel.max_rows) * k * width);
        const Partition column_groups(panels, std::clamp<int64_t>((1 << 21) / group_work, 1, 8));
        const auto compute = [&](int64_t begin, int64_t end) {
          alignas(64) float tile[tile_bytes / sizeof(float)];
          for (int64_t group = begin; group < end; ++group) {
            const int64_t first = t0 + row_groups.begin(group / column_groups.parts);
            const int64_t last = t0 + row_groups.begin(group / column_groups.parts + 1);
            const int64_t from = column_groups.begin(group % column_groups.parts);
            const int64_t to = column_groups.begin(group % column_groups.parts + 1);
            for (int64_t panel = from; panel < to; ++panel) {
              const int64_t j = panel * width, left = n - j, used = std::min(left, width);
              const int64_t padded = panel_width(left, lanes);
              const float* b = p.b + k0 * p.ldb + n0 + j;
              int64_t ldb = p.ldb;
              if (p.packed_b) {
                b = p.packed_b + k0 * packed_columns(p.N, lanes) + (n0 + j) * k;
                ldb = padded;
              } else if (panel >= first_packed) {
                b = packed_b + j * k;
                ldb = padded;
              }
              const bool direct = used == padded && !p.swapped;
              for (int64_t t = first; t < last; ++t) {
                const int64_t i = rows.begin(t), count = rows.begin(t + 1) - i;
                const float* a = pack_a ? packed_a + (i - m0) * k : p.a_by_rows ? p.a + i * p.lda + k0 : p.a + k0 * p.lda + i;
                const int64_t lda = pack_a ? count : p.lda;
                const auto run = kernel.tile[p.a_by_rows && !pack_a][padded > lanes][count];
                if (direct) {
                  run(k, a, lda, b, ldb, p.alpha, beta, p.c + i * p.ldc + n0 + j, p.ldc);
                } else {
                  run(k, a, lda, b, ldb, p.alpha, 0.0f, tile, padded);
                  store_tile(p, tile, padded, i, count, n0 + j, used, beta);
                }
              }
              if (step + 1 == steps.parts) {
                const int64_t row = rows.begin(first);
                finish_region(p, row, rows.begin(last) - row, n0 + j, used);
              }
            }
          }
        };
        if (serial) {
          compute(0, row_groups.parts * column_groups.parts);
        } else {
          parallel_for(row_groups.parts * column_groups.parts, 1, compute);
        }
      }
    }
  }
}

// A long sum into a small C: chunks of K in parallel, each into its own partial C, added in chunk order.
void multiply_in_chunks(const Product& p, int64_t chunks) {
  float* partial = scratch<float>(ScratchSlot::matmul_partial, chunks * p.M * p.N);
  parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t k0 = p.K * chunk / chunks;
      Product part = p;
      part.K = p.K * (chunk + 1) / chunks - k0;
      part.a += p.a_by_rows ? k0 : k0 * p.lda;
      part.b += p.b_by_columns ? k0 : k0 * p.ldb;
      part.beta = 0.0f;
      part.c = partial + chunk * p.M * p.N;
      part.ldc = p.N;
      part.epilogue = nullptr;
      part.packed_b = nullptr;
      multiply(part);
    }
  });
  vectorize<float>([&] {
    for (int64_t i = 0; i < p.M; ++i) {
      float* __restrict out = p.c + i * p.ldc;
      if (p.beta == 0.0f) {
        for (int64_t j = 0; j < p.N; ++j) out[j] = partial[i * p.N + j];
      } else {
        for (int64_t j = 0; j < p.N; ++j) out[j] = p.beta * out[j] + partial[i * p.N + j];
      }
      for (int64_t chunk = 1; chunk < chunks; ++chunk) {
        const float* __restrict part = partial + (chunk * p.M + i) * p.N;
        for (int64_t j = 0; j < p.N; ++j) out[j] += part[j];
      }
    }
  });
  finish_region(p, 0, p.M, 0, p.N);
}

}  // namespace

PackedMatrix::PackedMatrix(Transpose tb, int64_t K, int64_t N, const float* b, int64_t ldb) : K_(K), N_(N) {
  const Kernels& kernel = kernels();
  const int64_t lanes = kernel.lanes, width = 2 * lanes, panels = ceil_div(N, width);
  storage_.resize(static_cast<size_t>(K * packed_columns(N, lanes) + 64 / static_cast<int64_t>(sizeof(float))));
  const auto address = reinterpret_cast<uintptr_t>(storage_.data());
  data_ = storage_.data() + ((address + 63) / 64 * 64 - address) / sizeof(float);
  const Partition steps = k_blocks(K);
  const bool by_columns = tb == Transpose::yes;
  parallel_for(steps.parts * panels, 4, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t k0 = steps.begin(job / panels), k = steps.begin(job / panels + 1) - k0;
      const int64_t j = job % panels * width, left = N - j;
      kernel.pack_panel(by_columns, by_columns ? b + j * ldb + k0 : b + k0 * ldb + j, ldb, k, std::min(left, width),
                        panel_width(left, lanes), data_ + k0 * packed_columns(N, lanes) + j * k);
    }
  });
}

template <>
void matmul(Transpose ta, Transpose tb, int64_t M, int64_t N, int64_t K, float alpha, const float* a, int64_t lda, const float* b,
            int64_t ldb, float beta, float* c, int64_t ldc, const Epilogue<float>* epilogue, const PackedMatrix* packed_b) {
  if (M <= 0 || N <= 0) return;
  Product p{M,
            N,
            K,
            a,
            b,
            lda,
            ldb,
            ta == Transpose::no,
            tb == Transpose::yes,
            false,
            alpha,
            beta,
            c,
            ldc,
            epilogue,
            packed_b ? packed_b->data() : nullptr};
  if (K <= 0) {
    scale(p, M, N);
    finish_region(p, 0, M, 0, N);
    return;
  }
  const Kernels& kernel = kernels();
  const int64_t tiles = ceil_div(M, kernel.max_rows) * ceil_div(N, 2 * kernel.lanes);
  if (tiles < 64 && K >= 1024) {  // also with packed_b, so that packing never changes a bit; then b is read
    multiply_in_chunks(p, std::min<int64_t>(16, K / 256));
    return;
  }
  if (!packed_b && p.b_by_columns && M <= 64 && N >= 4 * M) {
    std::swap(p.M, p.N);
    std::swap(p.a, p.b);
    std::swap(p.lda, p.ldb);
    p.a_by_rows = true;                    // the rows of B are the rows of op(B)^T
    p.b_by_columns = ta == Transpose::no;  // op(A)^T(k, i) = a[i * lda + k]
    p.swapped = true;
  }
  multiply(p);
}

// float64, for gradient checks: a plain loop in the order of K.
template <>
void matmul(Transpose ta, Transpose tb, int64_t M, int64_t N, int64_t K, double alpha, const double* a, int64_t lda, const double* b,
            int64_t ldb, double beta, double* c, int64_t ldc, const Epilogue<double>* epilogue, const PackedMatrix*) {
  const int64_t a_row = ta == Transpose::no ? lda : 1, a_step = ta == Transpose::no ? 1 : lda;
  const int64_t b_step = tb == Transpose::no ? ldb : 1, b_column = tb == Transpose::no ? 1 : ldb;
  const Activation kind = epilogue ? epilogue->activation : Activation::none;
  dispatch_activation(kind, [&]<Activation activation>() {
    run_small([&] {
      for (int64_t i = 0; i < M; ++i) {
        for (int64_t j = 0; j < N; ++j) {
          double sum = 0;
          for (int64_t p = 0; p < K; ++p) sum += a[i * a_row + p * a_step] * b[p * b_step + j * b_column];
          double& out = c[i * ldc + j];
          out = alpha * sum + (beta == 0 ? 0 : beta * out);
          if (!epilogue) continue;
          if (epilogue->bias) out += epilogue->bias[j];
          if (epilogue->preactivation) epilogue->preactivation[i * epilogue->ld_preactivation + j] = out;
          out = activate<activation>(out);
        }
      }
    });
  });
}

template <class T>
void matmul_batched(int64_t G, Transpose ta, Transpose tb, int64_t M, int64_t N, int64_t K, T alpha, const T* a, int64_t lda,
                    int64_t stride_a, const T* b, int64_t ldb, int64_t stride_b, T beta, T* c, int64_t ldc, int64_t stride_c) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      matmul(ta, tb, M, N, K, alpha, a + g * stride_a, lda, b + g * stride_b, ldb, beta, c + g * stride_c, ldc);
    }
  };
  // Nested parallel loops run in place: with enough matrices each thread takes whole ones.
  if (G >= 16) {
    parallel_for(G, std::max<int64_t>(1, serial_work / std::max<int64_t>(1, M * N * K)), run);
  } else {
    run(0, G);
  }
}

void matmul_forward(const Tensor& a, const Tensor& b, Tensor& out, bool transpose_a, bool transpose_b) {
  dispatch_float(a.dtype, [&]<class T>() {
    const int64_t M = out.shape[out.rank - 2], N = out.shape[out.rank - 1];
    const int64_t K = transpose_a ? a.shape[a.rank - 2] : a.shape[a.rank - 1];
    int64_t batch = 1;
    for (int i = 0; i + 2 < out.rank; ++i) batch *= out.shape[i];
    matmul_batched<T>(batch, transpose_a ? Transpose::yes : Transpose::no, transpose_b ? Transpose::yes : Transpose::no, M, N, K, T(1),
                      a.data<T>(), transpose_a ? M : K, M * K, b.data<T>(), transpose_b ? K : N, K * N, T(0), out.data<T>(), N, M * N);
  });
}

template void matmul_batched(int64_t, Transpose, Transpose, int64_t, int64_t, int64_t, float, const float*, int64_t, int64_t, const float*,
                             int64_t, int64_t, float, float*, int64_t, int64_t);
template void matmul_batched(int64_t, Transpose, Transpose, int64_t, int64_t, int64_t, double, const double*, int64_t, int64_t,
                             const double*, int64_t, int64_t, double, double*, int64_t, int64_t);

}  // namespace galago::cpu
