// State of one Node environment (the main thread or a worker): its tensors by handle, and the waits that it is owed.
#pragma once
#include <napi.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "../core/executor.h"

namespace galago {

struct Free {
  void operator()(void* block) const { std::free(block); }
};
using Block = std::unique_ptr<void, Free>;

// What a finished wait carries to the JavaScript thread.
struct Completion {
  uint32_t id;
  std::optional<Failure> failure;
  Block block;  // the bytes of a read
  size_t bytes = 0;
};

// Shared by an environment and the tasks that report to it; outlives both. All completions since the last drain share one call.
struct Completions {
  std::mutex mutex;
  std::vector<Completion> done;
  napi_threadsafe_function wake = nullptr;
  bool scheduled = false, closed = false;
  void push(Completion completion);  // any thread; after close() the completion is dropped
  void close();                      // the environment is going away: `wake` is not called any more
};

// A handle is slot + generation * 2^26: stale ones are noticed. 0 is no tensor.
class Instance {
 public:
  explicit Instance(Napi::Env env);
  ~Instance() { completions_->close(); }
  static Instance& of(Napi::Env env) { return *env.GetInstanceData<Instance>(); }

  double insert(Tensor tensor);
  Tensor* find(double handle);  // null when stale
  bool remove(double handle);
  size_t tensors() const { return slots_.size() - free_.size(); }

  // The JavaScript error object that ts/src/native.ts builds for a failure.
  Napi::Error error(const Failure& failure);
  [[noreturn]] void fail(const char* code, const std::string& message, const char* kernel = "", std::string_view argument = "");

  Napi::Promise wait(Backend& backend, std::unique_ptr<Task> (*make)(Backend&, std::shared_ptr<Completions>, uint32_t, Tensor),
                     Tensor tensor);
  void drain();
  Napi::FunctionReference make_error;

 private:
  struct Slot {
    Tensor tensor;
    uint32_t generation = 1;
    bool used = false;
  };
  Napi::Env env_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::shared_ptr<Completions> completions_ = std::make_shared<Completions>();
  void settle(Napi::Promise::Deferred deferred, Completion& completion);

  std::unordered_map<uint32_t, Napi::Promise::Deferred> pending_;
  uint32_t next_wait_ = 0;
};

}  // namespace galago
