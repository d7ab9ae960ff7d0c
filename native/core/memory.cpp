#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

namespace galago {

namespace {

// Eight classes per power of two: at most an eighth is lost to rounding.
size_t class_size(size_t bytes) {
  if (bytes <= 512) return bytes <= 64 ? 64 : (bytes + 63) / 64 * 64;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

// A free block serves requests down to two thirds of its size: batches differ in length from step to step, and with a block for every
// length that ever came the cache would grow for as long as training runs.
bool fits(size_t block, size_t size) { return block <= size + size / 2; }

// Large tables are read at random rows: with pages of 2 MB, where the system offers them, far fewer addresses have to be looked up.
void* take(size_t size) {
  constexpr size_t page = 2 << 20;
  if (size < 4 * page) return std::aligned_alloc(64, size);
  void* block = std::aligned_alloc(page, (size + page - 1) / page * page);
#ifdef MADV_HUGEPAGE
  if (block) madvise(block, size, MADV_HUGEPAGE);
#endif
  return block;
}

struct Cache {
  std::mutex mutex;
  std::map<size_t, std::vector<void*>> free;  // by size of the block
  std::unordered_map<void*, size_t> sizes;    // of blocks in use that are larger than their class
  size_t live = 0, reserved = 0, peak = 0;
  int64_t allocations = 0, fail_in = 0;
  bool poison = false;

  MemoryStatistics statistics() const {
    return {.live = live, .reserved = reserved, .peak = peak, .allocations = allocations, .largest = {}};
  }  // mutex held

  void release() {  // mutex held
    for (auto& [size, blocks] : free) {
      for (void* block : blocks) std::free(block);
      reserved -= size * blocks.size();
      blocks.clear();
    }
  }
};

Cache& cache() {
  static Cache* instance = new Cache;  // never destroyed: executors may outlive static destruction
  return *instance;
}

}  // namespace

void* allocate(size_t bytes) {
  const size_t size = class_size(bytes);
  Cache& c = cache();
  std::lock_guard lock(c.mutex);
  if (c.fail_in > 0 && --c.fail_in == 0) throw OutOfMemory("HOST_MEMORY", "cpu: out of memory (planned failure)", size, c.statistics());
  void* block = nullptr;
  auto found = c.free.lower_bound(size);
  while (found != c.free.end() && found->second.empty()) found = c.free.erase(found);
  if (found != c.free.end() && fits(found->first, size)) {
    block = found->second.back();
    if (found->first != size) c.sizes.emplace(block, found->first);  // may throw: first
    found->second.pop_back();
  } else {
    c.allocations++;
    block = take(size);
    if (!block) {
      c.release();
      block = take(size);
    }
    if (!block) throw OutOfMemory("HOST_MEMORY", "cpu: out of memory", size, c.statistics());
    c.reserved += size;
  }
  c.live += size;
  if (c.live > c.peak) c.peak = c.live;
  if (c.poison) std::memset(block, 0xff, size);
  return block;
}

void deallocate(void* block, size_t bytes) {
  if (!block) return;
  const size_t size = class_size(bytes);
  Cache& c = cache();
  std::lock_guard lock(c.mutex);
  if (c.poison) std::memset(block, 0xff, size);
  c.live -= size;
  const auto larger = c.sizes.find(block);
  const size_t held = larger == c.sizes.end() ? size : larger->second;
  if (larger != c.sizes.end()) c.sizes.erase(larger);
  try {
    c.free[held].push_back(block);
  } catch (const std::bad_alloc&) {  // no room even for the list: give the block back
    std::free(block);
    c.reserved -= held;
  }
}

std::shared_ptr<void> map_file(const std::string& path, size_t offset, size_t file_bytes, size_t bytes) {
  const size_t before = offset % size_t(sysconf(_SC_PAGESIZE)), length = before + bytes + 1;  // never empty
  const auto fail = [&] { throw Error("STORAGE", "cannot map " + path + ": " + std::strerror(errno)); };
  void* const block = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (block == MAP_FAILED) fail();
  std::shared_ptr<void> memory(block, [length](void* at) { munmap(at, length); });
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail();
  constexpr int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  const void* const mapped =
      mmap(block, std::max<size_t>(before + file_bytes, 1), PROT_READ | PROT_WRITE, flags, file, off_t(offset - before));
  const int error = errno;
  close(file);
  errno = error;
  if (mapped == MAP_FAILED) fail();
  return {memory, static_cast<char*>(block) + before};
}

MemoryStatistics memory_statistics() {
  Cache& c = cache();
  std::lock_guard lock(c.mutex);
  return c.statistics();
}

void reset_peak() {
  std::lock_guard lock(cache().mutex);
  cache().peak = cache().live;
}

void set_memory_poison(bool on) {
  std::lock_guard lock(cache().mutex);
  cache().poison = on;
}

void fail_allocation(int64_t k) {
  std::lock_guard lock(cache().mutex);
  cache().fail_in = k;
}

}  // namespace galago
