// Chooses the element type and the instruction set of a CPU kernel at run time.
#pragma once
#include "../core/parallel.h"
#include "../core/tensor.h"
#include "../kernels.h"
#include "isa.h"

namespace galago::cpu {

// Calls f.template operator()<float>() or <double>(). The latter is compiled for size, as vectorize() does.
template <class F>
void dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: f.template operator()<float>(); return;
    case DType::float64: run_small([&] { f.template operator()<double>(); }); return;
    default: throw Error("DEVICE_LOST", std::string("expected a float32 or float64 tensor, got ") + name(dtype));
  }
}

// Elements per chunk of a kernel that streams through memory: large enough to hide the cost of handing it out.
constexpr int64_t element_grain = 16384;

// Rows per chunk so that a chunk holds about `element_grain` elements.
inline int64_t row_grain(int64_t columns) {
  const int64_t rows = element_grain / (columns > 0 ? columns : 1);
  return rows > 1 ? rows : 1;
}

}  // namespace galago::cpu
