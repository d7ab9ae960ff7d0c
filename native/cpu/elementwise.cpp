// Elementwise arithmetic: affine, four binary operations with broadcasting, unary functions.
#include <cmath>

#include "dispatch.h"
#include "vector_math.h"

namespace galago::cpu {

namespace {

template <class T, Binary kind>
GALAGO_INLINE T apply(T a, T b) {
  if constexpr (kind == Binary::add) return a + b;
  if constexpr (kind == Binary::sub) return a - b;
  if constexpr (kind == Binary::mul) return a * b;
  if constexpr (kind == Binary::div) return a / b;
}

template <class T, Unary kind>
GALAGO_INLINE T apply(T x) {
  if constexpr (kind == Unary::exp) return fast_exp(x);
  if constexpr (kind == Unary::log) return fast_log(x);
  if constexpr (kind == Unary::sqrt) return std::sqrt(x);
  if constexpr (kind == Unary::square) return x * x;
  if constexpr (kind == Unary::abs) return x < 0 ? -x : x;
  if constexpr (kind == Unary::reciprocal) return 1 / x;
}

template <class T, Unary kind>
GALAGO_INLINE T slope(T x, T y) {
  if constexpr (kind == Unary::exp) return y;
  if constexpr (kind == Unary::log) return 1 / x;
  if constexpr (kind == Unary::sqrt) return T(0.5) / y;
  if constexpr (kind == Unary::square) return 2 * x;
  if constexpr (kind == Unary::abs) return x > 0 ? T(1) : x < 0 ? T(-1) : T(0);
  if constexpr (kind == Unary::reciprocal) return -y * y;
}

template <class F>
void dispatch(Binary kind, F&& f) {
  switch (kind) {
    case Binary::add: return f.template operator()<Binary::add>();
    case Binary::sub: return f.template operator()<Binary::sub>();
    case Binary::mul: return f.template operator()<Binary::mul>();
    case Binary::div: return f.template operator()<Binary::div>();
  }
}

template <class F>
void dispatch(Unary kind, F&& f) {
  switch (kind) {
    case Unary::exp: return f.template operator()<Unary::exp>();
    case Unary::log: return f.template operator()<Unary::log>();
    case Unary::sqrt: return f.template operator()<Unary::sqrt>();
    case Unary::square: return f.template operator()<Unary::square>();
    case Unary::abs: return f.template operator()<Unary::abs>();
    case Unary::reciprocal: return f.template operator()<Unary::reciprocal>();
  }
}

// out seen as rows of its last dimension: where row r of a broadcast input begins, and whether the input moves along the row.
struct Broadcast {
  int64_t stride[max_rank] = {};
  bool along_row = false;

  Broadcast(const Tensor& x, const Tensor& out) {
    const int shift = out.rank - x.rank;
    int64_t step = 1;
    for (int d = x.rank - 1; d >= 0; d--) {
      CHECK(x.shape[d] == 1 || x.shape[d] == out.shape[d + shift], "binary: shapes do not broadcast");
      stride[d + shift] = x.shape[d] == 1 ? 0 : step;
      step *= x.shape[d];
    }
    along_row = out.rank > 0 && stride[out.rank - 1] != 0;
  }

  int64_t row(const Tensor& out, int64_t r) const {
    int64_t offset = 0;
    for (int d = out.rank - 2; d >= 0; d--) {
      offset += r % out.shape[d] * stride[d];
      r /= out.shape[d];
    }
    return offset;
  }
};

template <class T, Binary kind>
[[gnu::noinline]] void row_of(const T* a, bool a_moves, const T* b, bool b_moves, T* out, int64_t n) {
  vectorize<T>([=] {
    if (a_moves && b_moves) {
      for (int64_t i = 0; i < n; i++) out[i] = apply<T, kind>(a[i], b[i]);
    } else if (a_moves) {
      const T y = *b;
      for (int64_t i = 0; i < n; i++) out[i] = apply<T, kind>(a[i], y);
    } else if (b_moves) {
      const T x = *a;
      for (int64_t i = 0; i < n; i++) out[i] = apply<T, kind>(x, b[i]);
    } else {
      const T value = apply<T, kind>(*a, *b);
      for (int64_t i = 0; i < n; i++) out[i] = value;
    }
  });
}

bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank) return false;
  for (int d = 0; d < a.rank; d++)
    if (a.shape[d] != b.shape[d]) return false;
  return true;
}

}  // namespace

void affine(const Tensor& x, Tensor& out, double scale, double shift) {
  dispatch_float(x.dtype, [&]<class T>() {
    const T* px = x.data<T>();
    T* po = out.data<T>();
    const T a = T(scale), b = T(shift);
    parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
      vectorize<T>([&] {
        for (int64_t i = begin; i < end; i++) po[i] = a * px[i] + b;
      });
    });
  });
}

void binary(const Tensor& a, const Tensor& b, Tensor& out, Binary kind) {
  dispatch_float(out.dtype, [&]<class T>() {
    dispatch(kind, [&]<Binary k>() {
      const T *pa = a.data<T>(), *pb = b.data<T>();
      T* po = out.data<T>();
      if (same_shape(a, out) && same_shape(b, out)) {
        parallel_for(out.size(), element_grain,
                     [&](int64_t begin, int64_t end) { row_of<T, k>(pa + begin, true, pb + begin, true, po + begin, end - begin); });
        return;
      }
      const Broadcast left(a, out), right(b, out);
      const int64_t n = out.columns(), rows = out.size() ? out.rows() : 0;
      parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++)
          row_of<T, k>(pa + left.row(out, r), left.along_row, pb + right.row(out, r), right.along_row, po + r * n, n);
      });
    });
  });
}

void unary_forward(const Tensor& x, Tensor& out, Unary kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch(kind, [&]<Unary k>() {
      const T* px = x.data<T>();
      T* po = out.data<T>();
      parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
        vectorize<T>([&] {
          for (int64_t i = begin; i < end; i++) po[i] = apply<T, k>(px[i]);
        });
      });
    });
  });
}

void unary_backward(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& dx, Unary kind) {
  dispatch_float(x.dtype, [&]<class T>() {
    dispatch(kind, [&]<Unary k>() {
      const T *px = x.data<T>(), *py = out.data<T>(), *pd = dout.data<T>();
      T* pdx = dx.data<T>();
      parallel_for(x.size(), element_grain, [&](int64_t begin, int64_t end) {
        vectorize<T>([&] {
          for (int64_t i = begin; i < end; i++) pdx[i] = pd[i] * slope<T, k>(px[i], py[i]);
        });
      });
    });
  });
}

}  // namespace galago::cpu
