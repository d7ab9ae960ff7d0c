#include "executor.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <new>
#include <stdexcept>
#include <thread>

namespace galago {

namespace {
std::atomic<Executor*> running_kernel{nullptr};  // whose kernel the pool works for

Failure failed(std::string code, std::string message) {
  Failure failure;
  failure.code = std::move(code);
  failure.message = std::move(message);
  return failure;
}

Failure scratch_failed() {
  Failure failure = failed("HOST_MEMORY", "cpu: out of memory for scratch space");
  failure.held = memory_statistics();
  return failure;
}

bool out_of_memory(const Failure& failure) { return failure.code == "HOST_MEMORY" || failure.code == "DEVICE_MEMORY"; }
}  // namespace

Failure failure_of(const OutOfMemory& error) {
  Failure failure = failed(error.code, error.what());
  failure.requested = error.requested;
  failure.held = error.held;
  return failure;
}

Executor& Executor::of(Backend& backend) {
  Executor* executor = backend.executor.load(std::memory_order_acquire);
  if (!executor) {
    static std::mutex mutex;
    std::lock_guard lock(mutex);
    executor = backend.executor.load(std::memory_order_relaxed);
    if (!executor) backend.executor.store(executor = new Executor(backend), std::memory_order_release);  // its threads live on
  }
  return *executor;
}

namespace {

// Executors of devices that are in a task; at the end of the process they begin no other.
std::atomic<int> at_work{0};
std::atomic<bool> leaving{false};

struct AtWork {
  AtWork() {
    at_work++;
    if (!leaving) return;
    at_work--;
    for (;;) pause();
  }
  ~AtWork() { at_work--; }
};

// CUDA's own exit handlers, which were registered before this one and so run after it, take kernels away that a launch looks up. A task
// takes microseconds, unless it waits for the device: that one is left alone.
void leave() {
  leaving = true;
  for (int i = 0; i < 100 && at_work > 0; i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

Executor::Executor(Backend& backend) : backend_(backend) {
  std::thread([this] { loop(); }).detach();
  if (backend.device.kind == DeviceKind::cpu) return;
  std::thread([this] { land_loop(); }).detach();
  static const int once = std::atexit(leave);
  (void)once;
}

void Executor::Queue::push(std::unique_ptr<Task> task) {
  {
    std::lock_guard lock(mutex);
    tasks.push_back(std::move(task));
  }
  signal.fetch_add(1, std::memory_order_release);
  signal.notify_one();
}

std::unique_ptr<Task> Executor::Queue::pop() {
  for (;;) {
    const uint32_t seen = signal.load(std::memory_order_acquire);
    {
      std::lock_guard lock(mutex);
      if (!tasks.empty()) {
        std::unique_ptr<Task> task = std::move(tasks.front());
        tasks.pop_front();
        return task;
      }
    }
    signal.wait(seen, std::memory_order_acquire);
  }
}

bool Executor::submit(std::unique_ptr<Task> task) {
  task->step = step_.load(std::memory_order_relaxed);
  if (!task->is_wait() && queued() >= capacity) return false;
  queue_.push(std::move(task));
  return true;
}

size_t Executor::queued() {
  std::lock_guard lock(queue_.mutex);
  return queue_.tasks.size();
}

bool Executor::poisoned() {
  std::lock_guard lock(failure_mutex_);
  return poison_.has_value();
}

void Executor::note_index_error(const char* op, const char* argument, int64_t position, int64_t value, int64_t bound) {
  std::lock_guard lock(failure_mutex_);
  if (index_error_) return;
  Failure failure;
  failure.code = "INDEX";
  failure.kernel = op;
  failure.argument = argument;
  failure.position = position;
  failure.value = value;
  failure.bound = bound;
  failure.message = std::string(op) + ": expected `" + argument + "` in [0, " + std::to_string(bound) + ") but position " +
                    std::to_string(position) + " holds " + std::to_string(value);
  index_error_ = failure;
}

void index_error(const char* op, const char* argument, int64_t position, int64_t value, int64_t bound) {
  if (Executor* executor = running_kernel.load()) executor->note_index_error(op, argument, position, value, bound);
}

void Executor::set_profile(bool on) {
  std::lock_guard lock(profile_mutex_);
  if (on) profile_.clear();
  profiling_.store(on, std::memory_order_relaxed);
}

std::map<std::string, KernelTime> Executor::profile() {
  std::lock_guard lock(profile_mutex_);
  return profile_;
}

void Executor::run_counted(Task& task) {
  const auto now = [](clockid_t clock) {
    timespec time;
    clock_gettime(clock, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
  };
  const double start = now(CLOCK_MONOTONIC), cpu_start = now(CLOCK_THREAD_CPUTIME_ID);
  task.run();
  backend_.finish();
  const double cpu_end = now(CLOCK_THREAD_CPUTIME_ID), end = now(CLOCK_MONOTONIC);
  std::lock_guard lock(profile_mutex_);
  KernelTime& time = profile_[task.name];
  time.calls++;
  time.seconds += end - start;
  time.cpu_seconds += cpu_end - cpu_start;
}

// Runs `work`; what it throws, as a failure.
template <class Work>
static std::optional<Failure> caught(Work&& work) {
  try {
    work();
    return std::nullopt;
  } catch (const OutOfMemory& error) { return failure_of(error); } catch (const Error& error) {
    return failed(error.code, error.what());
  } catch (const std::bad_alloc&) {
    return scratch_failed();
  } catch (const std::length_error&) {  // a std::vector of more elements than there are addresses
    return scratch_failed();
  } catch (const std::exception& error) { return failed("DEVICE_LOST", error.what()); } catch (...) {
    return failed("DEVICE_LOST", "unknown exception");
  }
}

void Executor::poison(Task& task, Failure& failure) {
  failure.kernel = task.name;
  failure.step = task.step;
  task.undo();
  std::lock_guard lock(failure_mutex_);
  if (out_of_memory(failure)) memory_failure_ = failure;
  if (poison_ && !out_of_memory(*poison_))
    failure = *poison_;  // the other thread met it first
  else
    poison_ = failure;
}

void Executor::end_wait(Task& task, std::optional<Failure> failure) {
  {
    std::lock_guard lock(failure_mutex_);
    if (!failure) {  // this one landed well: an error of memory that came since is for a later wait to report
      failure = index_error_;
      index_error_.reset();
    } else if (poison_ && out_of_memory(*poison_)) {
      poison_.reset();
    }
  }
  task.wait_over(failure);
}

void Executor::loop() {
  // The event loop of the host program goes first where cores are short.
  if (backend_.device.kind == DeviceKind::cpu) setpriority(PRIO_PROCESS, id_t(syscall(SYS_gettid)), 5);
  bool started = false;
  for (;;) {
    std::unique_ptr<Task> task = queue_.pop();
    std::optional<AtWork> here;
    if (backend_.device.kind != DeviceKind::cpu) here.emplace();
    std::optional<Failure> failure;
    {
      std::lock_guard lock(failure_mutex_);
      failure = poison_;
      if (!failure && memory_failure_ && !task->ready()) failure = memory_failure_;
    }
    if (!failure) {
      running_.store(task->name, std::memory_order_relaxed);
      running_kernel.store(this);
      failure = caught([&] {
        if (!started) backend_.start();
        started = true;
        if (profiling_.load(std::memory_order_relaxed))
          run_counted(*task);
        else
          task->run();
      });
      running_.store(nullptr, std::memory_order_relaxed);
      if (failure) poison(*task, *failure);
    }
    if (!task->is_wait()) continue;
    if (!failure && task->landing())
      landing_.push(std::move(task));
    else
      end_wait(*task, failure);
  }
}

// Waits of a device that computes beside this executor are over when their bytes have landed; the executor goes on meanwhile.
void Executor::land_loop() {
  for (;;) {
    const std::unique_ptr<Task> task = landing_.pop();
    std::optional<Failure> failure = caught([&] {
      if (const std::optional<IndexFault> fault = task->landing()->land())
        note_index_error(fault->op, fault->argument, fault->position, fault->value, fault->bound);
    });
    if (failure) poison(*task, *failure);
    end_wait(*task, failure);
  }
}

}  // namespace galago
