#include <algorithm>

#include "device.cuh"
#include "memory.cuh"

namespace galago::cuda {

constexpr int guard_byte = 0xa5;
constexpr size_t guard_bytes = 512;

// Looks at the bytes behind a block's end. IndexWord.set = 2 says that they were changed.
static __global__ void check_guard_kernel(const unsigned char* guard, int count, IndexWord* word, long long bytes) {
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x))
    if (guard[i] != guard_byte && atomicCAS(&word->set, 0, 2) == 0) {
      word->position = bytes + i;
      word->bound = bytes;
    }
}

void* Allocator::allocate(size_t bytes) {
  std::lock_guard lock(mutex_);
  const size_t wanted = std::max<size_t>(bytes, 1) + (poison_ ? guard_bytes : 0);
  if (fail_in_ > 0 && --fail_in_ == 0) out_of_memory("out of memory (planned failure)", bytes);
  const size_t unit = wanted < large ? step : slab;
  Block* const block = take((wanted + unit - 1) / unit * unit);
  if (!block) out_of_memory("out of memory", bytes);
  block->asked = std::max<size_t>(bytes, 1);
  block->guarded = poison_;
  live_blocks_.emplace(block->start, block);
  live_ += block->size;
  peak_ = std::max(peak_, live_);
  if (poison_) {
    CUDA_CHECK(cudaMemsetAsync(block->start, 0xff, block->asked, stream()));
    CUDA_CHECK(cudaMemsetAsync(block->start + block->asked, guard_byte, block->size - block->asked, stream()));
  }
  return block->start;
}

Allocator::Block* Allocator::take(size_t size) {
  Pool& pool = size < large ? small_ : large_;
  Block key{nullptr, size, nullptr};
  auto found = pool.lower_bound(&key);
  if (found == pool.end()) {
    const size_t slab_size = std::max(size, slab);
    void* memory = nullptr;
    allocations_++;
    while (cudaMalloc(&memory, slab_size) != cudaSuccess) {
      const cudaError_t status = cudaGetLastError();
      if (status != cudaErrorMemoryAllocation) CUDA_CHECK(status);
      if (!release()) return nullptr;
    }
    reserved_ += slab_size;
    found = pool.insert(new Block{static_cast<char*>(memory), slab_size, &pool}).first;
  }
  Block* const block = *found;
  pool.erase(found);
  if (block->size - size >= (size < large ? step : slab)) {
    Block* const rest = new Block{block->start + size, block->size - size, &pool};
    rest->previous = block;
    rest->next = block->next;
    if (block->next) block->next->previous = rest;
    block->next = rest;
    block->size = size;
    pool.insert(rest);
  }
  return block;
}

void Allocator::deallocate(void* memory) noexcept {
  std::lock_guard lock(mutex_);
  const auto found = live_blocks_.find(memory);
  Block* block = found->second;
  live_blocks_.erase(found);
  live_ -= block->size;
  // A failed device reports itself at the next wait: nothing to do about a status here.
  if (block->guarded) {
    const OnDevice here(device_);
    const int count = int(std::min(block->size - block->asked, guard_bytes));
    try {
      launch(check_guard_kernel, 1, 64, 0, reinterpret_cast<unsigned char*>(block->start + block->asked), count, current().word,
             (long long)(block->asked));
    } catch (const Error&) {}
    (void)cudaMemsetAsync(block->start, 0xff, block->size, stream());
  }
  block->asked = 0;
  Pool& pool = *block->pool;
  const auto join = [&](Block* first, Block* second) {
    first->size += second->size;
    first->next = second->next;
    if (second->next) second->next->previous = first;
    delete second;
  };
  if (block->next && block->next->asked == 0) {
    pool.erase(block->next);
    join(block, block->next);
  }
  if (Block* const previous = block->previous; previous && previous->asked == 0) {
    pool.erase(previous);
    join(previous, block);
    block = previous;
  }
  pool.insert(block);
}

bool Allocator::release() {
  bool any = false;
  CUDA_CHECK(cudaStreamSynchronize(stream()));  // what is free here may still be at work there
  for (Pool* pool : {&small_, &large_})
    for (auto i = pool->begin(); i != pool->end();) {
      Block* const block = *i;
      if (block->previous || block->next) {
        ++i;
        continue;
      }
      CUDA_CHECK(cudaFree(block->start));
      reserved_ -= block->size;
      i = pool->erase(i);
      delete block;
      any = true;
    }
  return any;
}

void Allocator::out_of_memory(const std::string& what, size_t bytes) {
  MemoryStatistics held{.live = live_, .reserved = reserved_, .peak = peak_, .allocations = allocations_, .largest = {}};
  if (cudaMemGetInfo(&held.free, &held.total) != cudaSuccess) (void)cudaGetLastError();
  for (const auto& [memory, block] : live_blocks_) held.largest.push_back(block->asked);
  const size_t shown = std::min<size_t>(held.largest.size(), 5);
  std::partial_sort(held.largest.begin(), held.largest.begin() + ptrdiff_t(shown), held.largest.end(), std::greater<>());
  held.largest.resize(shown);
  throw OutOfMemory("DEVICE_MEMORY", name(device_.device) + ": " + what, bytes, std::move(held));
}

MemoryStatistics Allocator::statistics() {
  std::lock_guard lock(mutex_);
  return {.live = live_, .reserved = reserved_, .peak = peak_, .allocations = allocations_, .largest = {}};
}

void Allocator::reset_peak() {
  std::lock_guard lock(mutex_);
  peak_ = live_;
}

void Allocator::set_poison(bool on) {
  std::lock_guard lock(mutex_);
  poison_ = on;
}

void Allocator::fail(int64_t k) {
  std::lock_guard lock(mutex_);
  fail_in_ = k;
}

}  // namespace galago::cuda
