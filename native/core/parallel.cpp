#include "parallel.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

namespace galago {

namespace {

// Workers look for new work this long before they park. Kernels of a step follow each other within microseconds, and waking a
// parked thread costs about 50.
constexpr int spin_rounds = 2000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

thread_local bool inside = false;  // a chunk of this thread is running

struct Job {
  ChunkFunction function;
  void* context;
  int64_t n, grain, chunks;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    inside = true;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      try {
        function(context, i * grain, std::min(n, (i + 1) * grain));
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
    inside = false;
  }
};

struct Pool {
  int size = 1;
  std::atomic<int> limit{1};
  std::mutex submit;  // one job at a time
  Job* job = nullptr;
  std::atomic<uint32_t> epoch{0};  // rises with every job
  // Workers inside the current job, and whether one may still enter. A worker that wakes up late finds the gate closed, so that
  // nobody waits for a thread that has done nothing.
  static constexpr uint32_t open = 1u << 31;
  std::atomic<uint32_t> gate{0};

  explicit Pool(int threads) {
    try {
      for (; size < threads; size++) std::thread([this, i = size] { loop(i); }).detach();
    } catch (const std::system_error&) {}  // the system's limit on threads: work goes on with those that started
    limit.store(size);
  }

  bool enter() {
    uint32_t state = gate.load(std::memory_order_acquire);
    while (state & open)
      if (gate.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void loop(int index) {
    // The event loop of the host program goes first where cores are short.
    setpriority(PRIO_PROCESS, id_t(syscall(SYS_gettid)), 5);
    uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < spin_rounds && epoch.load(std::memory_order_acquire) == seen; i++) pause();
      epoch.wait(seen, std::memory_order_acquire);
      seen = epoch.load(std::memory_order_acquire);
      if (index >= limit.load(std::memory_order_relaxed) || !enter()) continue;
      job->work();
      if (gate.fetch_sub(1, std::memory_order_acq_rel) == 1) gate.notify_one();
    }
  }

  void run(Job& next) {
    std::lock_guard lock(submit);
    job = &next;
    gate.store(open, std::memory_order_release);
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
    next.work();
    uint32_t inside_now = gate.fetch_and(~open, std::memory_order_acq_rel) & ~open;
    for (int i = 0; i < spin_rounds && inside_now; i++) {
      pause();
      inside_now = gate.load(std::memory_order_acquire);
    }
    while (inside_now) {
      gate.wait(inside_now, std::memory_order_acquire);
      inside_now = gate.load(std::memory_order_acquire);
    }
  }
};

constexpr int most_threads = 256;

int cores() {
  cpu_set_t set;
  const int available = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(std::thread::hardware_concurrency());
  return std::clamp(available, 1, most_threads);
}

Pool& pool() {
  static Pool* instance = new Pool(thread_setting());  // never destroyed: its threads wait on it
  return *instance;
}

}  // namespace

void parallel_chunks(int64_t n, int64_t grain, ChunkFunction function, void* context) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = chunk_count(n, grain);
  if (inside || chunks == 1 || pool().limit.load(std::memory_order_relaxed) == 1) {
    for (int64_t i = 0; i < chunks; i++) function(context, i * grain, std::min(n, (i + 1) * grain));
    return;
  }
  Job job;
  job.function = function;
  job.context = context;
  job.n = n;
  job.grain = grain;
  job.chunks = chunks;
  pool().run(job);
  if (job.failed.load()) std::rethrow_exception(job.error);
}

int thread_setting() {
  const char* text = std::getenv("GALAGO_NUM_THREADS");
  if (!text || !*text) return cores();
  const char* end = text + std::strlen(text);
  int threads = 0;
  const auto [stop, status] = std::from_chars(text, end, threads);
  if (status != std::errc() || stop != end || threads < 1 || threads > most_threads)
    throw std::invalid_argument("GALAGO_NUM_THREADS: expected an integer from 1 to " + std::to_string(most_threads) + " but received " +
                                text);
  return threads;
}

int num_threads() { return pool().limit.load(); }

void set_num_threads(int count) { pool().limit.store(std::clamp(count, 1, pool().size)); }

}  // namespace galago
