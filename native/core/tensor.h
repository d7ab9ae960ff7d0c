// What a kernel sees: a contiguous block of memory with a dtype and a shape. No Node, no device code.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "backend.h"

namespace galago {

enum class DType : uint8_t { float32, float64, int32, int64, uint8, bfloat16 };

constexpr const char* name(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "int32", "int64", "uint8", "bfloat16"};
  return names[int(dtype)];
}
constexpr size_t size_of(DType dtype) {
  constexpr size_t sizes[] = {4, 8, 4, 8, 1, 2};
  return sizes[int(dtype)];
}

template <class T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::float32;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::float64;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::int32;
};
template <>
struct dtype_of<int64_t> {
  static constexpr DType value = DType::int64;
};
template <>
struct dtype_of<uint8_t> {
  static constexpr DType value = DType::uint8;
};

// Device memory of one or more tensors (a reshape shares it). Memory is taken when the first task that touches it runs, so that
// a step enqueued ahead of its execution needs no more memory than one executed in order; it goes back with the last reference.
// Memory that someone else has filled (a mapped file) is `given`, and goes back to its owner.
class Storage {
 public:
  Storage(Backend& backend, size_t bytes) : backend(backend), bytes(bytes) {}
  Storage(Backend& backend, size_t bytes, std::shared_ptr<void> given)
      : backend(backend), bytes(bytes), version(1), data_(given.get()), given_(std::move(given)) {}
  ~Storage() {
    if (data_ && !given_) backend.deallocate(data_, bytes);
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  bool written() const { return version > 0 || bytes == 0; }
  void unwrite() { version -= version == 1; }  // the first task to write here has failed
  void* data() {                               // takes the memory on first use; executor thread, or any thread before the first task
    if (!data_) data_ = backend.allocate(bytes);
    return data_;
  }

  Backend& backend;
  const size_t bytes;
  // Counts tasks that wrote here, 0 = never written: what was derived from the content (packed weights) is valid for one version.
  uint64_t version = 0;
  // A cache of something derived from this content, owned by whoever put it there, tagged with the version.
  std::shared_ptr<void> derived;
  uint64_t derived_version = 0;

 private:
  void* data_ = nullptr;
  std::shared_ptr<void> given_;
};

constexpr int max_rank = 6;
constexpr int64_t max_elements = int64_t(1) << 53;  // products of dimensions are exact in JavaScript too

struct Tensor {
  std::shared_ptr<Storage> storage;
  DType dtype = DType::float32;
  int rank = 0;
  int64_t shape[max_rank] = {};

  bool defined() const { return storage != nullptr; }
  explicit operator bool() const { return defined(); }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  // Last dimension, and the product of all others: a tensor seen as a matrix of rows. A scalar is (1, 1).
  int64_t columns() const { return rank ? shape[rank - 1] : 1; }
  int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank; i++) n *= shape[i];
    return n;
  }
  size_t bytes() const { return size_t(size()) * size_of(dtype); }
  // Null for an undefined (optional) tensor.
  template <class T>
  T* data() const {
    return storage ? static_cast<T*>(storage->data()) : nullptr;
  }
};

using TensorList = std::vector<Tensor>;

}  // namespace galago
