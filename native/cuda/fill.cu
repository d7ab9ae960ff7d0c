/*
fill and copy. A value is written as the bits that it has in the tensor's dtype, so one kernel per element size serves every dtype.
*/
#include <cmath>
#include <cstring>

#include "launch.cuh"

namespace galago::cuda {

template <class T>
__global__ void fill_kernel(T* out, int64_t n, T value) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) out[i] = value;
}

// ---- launchers

template <class T>
static void fill_with(Tensor& out, T value) {
  const int64_t n = out.size();
  launch(fill_kernel<T>, grid_of((n + 1023) / 1024), 256, 0, out.data<T>(), n, value);
}

void fill(Tensor& out, double value) {
  switch (out.dtype) {
    case DType::float32: return fill_with(out, float(value));
    case DType::float64: return fill_with(out, value);
    case DType::int32: return fill_with(out, int32_t(value));
    case DType::int64: return fill_with(out, int64_t(value));
    case DType::uint8: return fill_with(out, uint8_t(value));
    case DType::bfloat16: return fill_with(out, bfloat16(float(value)));
  }
}

void copy(const Tensor& x, Tensor& out) {
  if (x.size() == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(out.data<void>(), x.data<void>(), x.bytes(), cudaMemcpyDeviceToDevice, stream()));
}

}  // namespace galago::cuda
