// fill, copy, add_same: what the tensor layer itself needs.
#include <cstring>

#include "dispatch.h"

namespace galago::cpu {

template <class T>
static void fill_with(Tensor& out, T value) {
  T* p = out.data<T>();
  parallel_for(out.size(), 4 * element_grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) p[i] = value;
  });
}

void fill(Tensor& out, double value) {
  switch (out.dtype) {
    case DType::float32: return fill_with<float>(out, float(value));
    case DType::float64: return fill_with<double>(out, value);
    case DType::int32: return fill_with<int32_t>(out, int32_t(value));
    case DType::int64: return fill_with<int64_t>(out, int64_t(value));
    case DType::uint8: return fill_with<uint8_t>(out, uint8_t(value));
    case DType::bfloat16: {
      const float f = float(value);
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      return fill_with<uint16_t>(out, uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16));
    }
  }
}

void copy(const Tensor& x, Tensor& out) {
  CHECK(x.bytes() == out.bytes(), "copy: sizes differ");
  const char* from = x.data<char>();
  char* to = out.data<char>();
  parallel_for(int64_t(x.bytes()), 1 << 18,
               [&](int64_t begin, int64_t end) { std::memcpy(to + begin, from + begin, size_t(end - begin)); });
}

void add_same(const Tensor& a, const Tensor& b, Tensor& out) {
  CHECK(a.size() == b.size() && a.size() == out.size(), "add_same: sizes differ");
  dispatch_float(a.dtype, [&]<class T>() {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* po = out.data<T>();
    parallel_for(a.size(), element_grain, [&](int64_t begin, int64_t end) {
      vectorize<T>([&] {
        for (int64_t i = begin; i < end; i++) po[i] = pa[i] + pb[i];
      });
    });
  });
}

}  // namespace galago::cpu
