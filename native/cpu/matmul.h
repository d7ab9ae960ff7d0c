/*
Matrix products of the CPU backend: C = epilogue(alpha op(A) op(B) + beta C), row-major, float32 and float64.

Results do not depend on the number of threads: blocks, and the chunks of a long sum, follow from the shapes alone.
They do depend, in the last bits, on the instruction set (isa.h). float64 is for gradient checks: a plain loop.
*/
#pragma once

#include <cstdint>
#include <vector>

#include "../kernels.h"

namespace galago::cpu {

enum class Transpose { no, yes };

// What happens to a finished tile while it is in cache: c = activation(c + bias).
template <class T>
struct Epilogue {
  const T* bias = nullptr;  // (N)
  Activation activation = Activation::none;
  T* preactivation = nullptr;  // (M, N): receives c + bias, for the backward pass
  int64_t ld_preactivation = 0;
};

// op(B) (K, N) laid out for the micro-kernels, for float32 weights that serve many products.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(Transpose tb, int64_t K, int64_t N, const float* b, int64_t ldb);
  int64_t rows() const { return K_; }
  int64_t columns() const { return N_; }
  const float* data() const { return data_; }

 private:
  int64_t K_ = 0, N_ = 0;
  std::vector<float> storage_;
  float* data_ = nullptr;  // the first aligned element of storage_
};

// C (M, N) = epilogue(alpha op(A) op(B) + beta C), op(A) (M, K), op(B) (K, N).
// A lies as (M, K), or as (K, M) with Transpose::yes; lda, ldb, ldc are elements from row to row. Beta 0 does not read C.
// K = 0 gives epilogue(beta C). packed_b is op(B) in another layout: it saves time and never changes a bit (a long sum reads b, float64
// always).
template <class T>
void matmul(Transpose ta, Transpose tb, int64_t M, int64_t N, int64_t K, T alpha, const T* a, int64_t lda, const T* b, int64_t ldb, T beta,
            T* c, int64_t ldc, const Epilogue<T>* epilogue = nullptr, const PackedMatrix* packed_b = nullptr);

// G products of the same shape; matrix g of each operand starts g strides further on. A stride of 0 shares an input.
template <class T>
void matmul_batched(int64_t G, Transpose ta, Transpose tb, int64_t M, int64_t N, int64_t K, T alpha, const T* a, int64_t lda,
                    int64_t stride_a, const T* b, int64_t ldb, int64_t stride_b, T beta, T* c, int64_t ldc, int64_t stride_c);

}  // namespace galago::cpu
