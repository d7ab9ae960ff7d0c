// The emulator's own tests: small kernels that are right, and kernels with one planted fault each. The executable runs every case and
// prints a line per case, its name and what came of it; ts/test/native/emulator.test.ts knows what should.
#pragma once
#include <string>
#include <vector>

#include "../../launch.cuh"

namespace galago::cuda {

struct Case {
  std::string name;
  std::string (*run)();  // "right", "wrong" or the device's error
};
std::vector<Case> sound_cases();
std::vector<Case> fault_cases();
std::vector<Case> runtime_cases();
std::vector<Case> hopper_cases();
std::vector<Case> hopper_fault_cases();

// Waits for the device: its error, which is forgotten then, or whether `right()` holds.
template <class F>
std::string outcome(F&& right) {
  const cudaError_t error = cudaStreamSynchronize(stream());
  const std::string text = std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
  if (error != cudaSuccess) emu::reset();
  return error != cudaSuccess ? text : right() ? "right" : "wrong";
}

// Device memory with a copy on the host.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : host(count) { CUDA_CHECK(cudaMalloc(&device, count * sizeof(T))); }
  template <class F>
  Buffer(size_t count, F&& value) : Buffer(count) {
    for (size_t i = 0; i < count; i++) host[i] = value(i);
    CUDA_CHECK(cudaMemcpyAsync(device, host.data(), count * sizeof(T), cudaMemcpyHostToDevice, stream()));
  }
  ~Buffer() { (void)cudaFree(device); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const std::vector<T>& read() {
    CUDA_CHECK(cudaMemcpyAsync(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost, stream()));
    return host;
  }
  template <class F>
  bool equals(F&& value) {
    read();
    for (size_t i = 0; i < host.size(); i++)
      if (!(host[i] == T(value(i)))) return false;
    return true;
  }

  T* device;
  std::vector<T> host;
};

}  // namespace galago::cuda
