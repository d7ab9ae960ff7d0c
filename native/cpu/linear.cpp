// Dense layers: out = f(x W^T + bias), the activation applied to each tile of the product while it is in cache.
#include "activation.h"
#include "column_sums.h"
#include "matmul.h"

namespace galago::cpu {

namespace {

// Smaller weights are packed faster than their cache entry is looked after.
constexpr int64_t smallest_packed = 1 << 14;

// W^T packed for the micro-kernels, from the second product on with the same content: in training every step changes the weights,
// and one use does not pay for a packed copy; in evaluation and serving they stay. Packing never changes a bit of the result.
const PackedMatrix* packed_weight(const Tensor& weight, int64_t K, int64_t N) {
  Storage& storage = *weight.storage;
  if (K * N < smallest_packed || weight.dtype != DType::float32) return nullptr;
  if (storage.derived_version != storage.version || !storage.derived) {
    const bool seen = storage.derived_version == storage.version;
    storage.derived_version = storage.version;
    storage.derived.reset();
    if (!seen) return nullptr;
    storage.derived = std::make_shared<PackedMatrix>(Transpose::yes, K, N, weight.data<float>(), K);
  }
  const auto& packed = *static_cast<const PackedMatrix*>(storage.derived.get());
  return packed.rows() == K && packed.columns() == N ? &packed : nullptr;
}

}  // namespace

void linear_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& out, Tensor& preactivation, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t M = x.rows(), N = weight.shape[0], K = weight.shape[1];
    const Epilogue<T> epilogue{bias.data<T>(), kind, preactivation.data<T>(), N};
    const bool plain = !bias && !preactivation && kind == Activation::none;
    matmul<T>(Transpose::no, Transpose::yes, M, N, K, T(1), x.data<T>(), K, weight.data<T>(), K, T(0), out.data<T>(), N,
              plain ? nullptr : &epilogue, packed_weight(weight, K, N));
  });
}

void linear_backward(const Tensor& x, const Tensor& weight, const Tensor& preactivation, const Tensor& out, const Tensor& dout, Tensor& dz,
                     Tensor& dx, Tensor& dweight, Tensor& dbias, Activation kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    const int64_t M = x.rows(), N = weight.shape[0], K = weight.shape[1];
    const T* gradient = kind == Activation::none ? dout.data<T>() : dz.data<T>();
    const T *py = out.data<T>(), *pd = dout.data<T>(), *before = preactivation.data<T>();
    T* pz = dz.data<T>();
    const auto differentiate = [&](int64_t begin, int64_t end) {
      dispatch_activation(kind, [&]<Activation k>() {
        if constexpr (k != Activation::none) {
          const T* px = slope_needs_input(k) ? before : py;
          vectorize<T>([&] {
            for (int64_t i = begin * N; i < end * N; i++) pz[i] = pd[i] * slope<k>(px[i], py[i]);
          });
        }
      });
    };
    if (kind != Activation::none || dbias) column_sums(M, N, gradient, dbias.data<T>(), differentiate);
    if (dx) { matmul<T>(Transpose::no, Transpose::no, M, K, N, T(1), gradient, N, weight.data<T>(), K, T(0), dx.data<T>(), K); }
    if (dweight) { matmul<T>(Transpose::yes, Transpose::no, N, K, M, T(1), gradient, N, x.data<T>(), K, T(0), dweight.data<T>(), K); }
  });
}

}  // namespace galago::cpu
