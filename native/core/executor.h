// One executor per device: a bounded queue and one thread that runs tasks in order. Nothing here knows Node or CUDA.
//
// A task that fails poisons the executor: tasks are skipped, every wait reports the failure, for as long as the process lives.
// Running out of memory is milder: tasks are skipped only until a wait has reported it, then the device works again. A skipped
// task leaves what it should have updated as it was, so a step whose optimizer comes after the failure has not happened. What it
// should have written first stays unwritten: tasks that read it are skipped too, and waits for it report the same failure.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "error.h"
#include "memory.h"
#include "tensor.h"

namespace galago {

// What a wait learns: nothing (all well), or the error of the device.
struct Failure {
  std::string code, message, kernel;
  int64_t step = -1;
  // Of an IndexError:
  std::string argument;
  int64_t position = 0, value = 0, bound = 0;
  // Of running out of memory; 0 requested = scratch space of unknown size.
  size_t requested = 0;
  std::optional<MemoryStatistics> held;
};

Failure failure_of(const OutOfMemory& error);

class Task {
 public:
  explicit Task(const char* name) : name(name) {}
  virtual ~Task() = default;
  virtual void run() = 0;
  // False while a tensor that the task reads was never written.
  virtual bool ready() const { return true; }
  // After run() has thrown: what it was the first to write counts as unwritten.
  virtual void undo() {}
  // Waits run even on a poisoned device, to carry the failure back. One that leaves a landing behind is over when that has landed.
  virtual void wait_over(const std::optional<Failure>&) {}
  virtual bool is_wait() const { return false; }
  virtual Landing* landing() { return nullptr; }
  const char* const name;
  int64_t step = -1;
};

struct KernelTime {
  int64_t calls = 0;
  double seconds = 0, cpu_seconds = 0;  // elapsed; spent by the executor's own thread, which a busy machine does not change
};

class Executor {
 public:
  static constexpr size_t capacity = 1 << 17;
  static Executor& of(Backend& backend);

  // False when the queue is full; the task is then untouched.
  bool submit(std::unique_ptr<Task> task);
  size_t queued();
  void set_step(int64_t step) { step_.store(step, std::memory_order_relaxed); }
  void note_index_error(const char* op, const char* argument, int64_t position, int64_t value, int64_t bound);
  bool poisoned();
  // Time per kernel name, counted from the last set_profile(true). Off by default: one relaxed load per task.
  void set_profile(bool on);
  std::map<std::string, KernelTime> profile();
  const char* running() const { return running_.load(std::memory_order_relaxed); }

 private:
  explicit Executor(Backend& backend);
  void loop();
  void land_loop();
  void run_counted(Task& task);
  void poison(Task& task, Failure& failure);
  void end_wait(Task& task, std::optional<Failure> failure);

  // Tasks on their way between threads.
  struct Queue {
    std::mutex mutex;
    std::deque<std::unique_ptr<Task>> tasks;
    std::atomic<uint32_t> signal{0};
    void push(std::unique_ptr<Task> task);
    std::unique_ptr<Task> pop();  // waits
  };

  Backend& backend_;
  Queue queue_, landing_;
  std::atomic<int64_t> step_{-1};
  std::atomic<const char*> running_{nullptr};
  std::mutex failure_mutex_;
  std::optional<Failure> poison_, index_error_;
  std::atomic<bool> profiling_{false};
  std::mutex profile_mutex_;
  std::map<std::string, KernelTime> profile_;
  std::optional<Failure> memory_failure_;  // the last one: why tensors are unwritten
};

}  // namespace galago
