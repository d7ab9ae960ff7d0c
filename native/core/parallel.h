// One thread pool per process. Work is cut into chunks that follow from (n, grain) alone, never from the number of threads:
// a kernel that keeps one partial per chunk and adds the partials in chunk order gives the same bits on any machine.
#pragma once
#include <cstdint>
#include <type_traits>

namespace galago {

using ChunkFunction = void (*)(void* context, int64_t begin, int64_t end);
void parallel_chunks(int64_t n, int64_t grain, ChunkFunction function, void* context);

// Calls body(begin, end) for [0, grain), [grain, 2 grain), ... below n, on all threads. Nested calls run in place.
// The first exception of a chunk is rethrown here, after all chunks have ended.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& body) {
  parallel_chunks(
      n, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<std::remove_reference_t<F>*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

inline int64_t chunk_count(int64_t n, int64_t grain) { return (n + grain - 1) / grain; }

int thread_setting();             // GALAGO_NUM_THREADS, else the cores this process may use; throws where it is not 1 .. 256
int num_threads();                // the threads that are there: fewer than asked for where the system refused some
void set_num_threads(int count);  // for tests: takes effect with the next parallel_for; 1 .. the pool's size

}  // namespace galago
