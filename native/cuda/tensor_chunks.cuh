// Many tensors in one launch: they are cut into chunks of 16 Ki elements, numbered through all tensors of a list in its order. 64 KB of
// float32 hide the search for a chunk's tensor, and a small model still gives every multiprocessor a chunk.
#pragma once
#include <vector>

#include "launch.cuh"

namespace galago::cuda {

constexpr int64_t tensor_chunk = 16 * 1024;

// Entries hold `first_chunk`, the number of chunks in front of them. Tensors without elements have no entry, so numbers differ.
template <class Entry>
__device__ __forceinline__ int entry_of(const Entry* entries, int count, int64_t chunk) {
  int low = 0, high = count;  // entries[low].first_chunk <= chunk < entries[high].first_chunk
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (entries[middle].first_chunk <= chunk ? low : high) = middle;
  }
  return low;
}

inline int64_t chunks_of(int64_t elements) { return (elements + tensor_chunk - 1) / tensor_chunk; }

// The list on the device.
template <class Entry>
class EntryTable : public Scratch<Entry> {
 public:
  explicit EntryTable(const std::vector<Entry>& entries) : Scratch<Entry>(int64_t(entries.size())) {
    if (!entries.empty()) upload(this->data(), entries.data(), entries.size() * sizeof(Entry));
  }
};

}  // namespace galago::cuda
