#include "instance.h"

#include <cstdlib>
#include <cstring>

namespace galago {

namespace {
constexpr double slot_limit = 1 << 26;
}

void Completions::push(Completion completion) {
  std::lock_guard lock(mutex);
  if (closed) return;
  done.push_back(std::move(completion));
  if (!scheduled) {
    scheduled = true;
    napi_call_threadsafe_function(wake, nullptr, napi_tsfn_nonblocking);
  }
}

void Completions::close() {
  std::lock_guard lock(mutex);
  if (closed) return;
  closed = true;
  done.clear();
  napi_release_threadsafe_function(wake, napi_tsfn_abort);
}

Instance::Instance(Napi::Env env) : env_(env) {
  napi_value resource = Napi::String::New(env, "galago");
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, resource, 0, 1, nullptr, nullptr, nullptr,
      [](napi_env raw, napi_value, void*, void*) {
        if (!raw) return;  // the environment is going away
        // Called by Node's C code: nothing may be thrown through it.
        try {
          Napi::Env env(raw);
          Napi::HandleScope scope(env);
          Instance::of(env).drain();
        } catch (...) {}  // a terminated worker runs no JavaScript any more: nobody is left to tell
      },
      &completions_->wake);
  if (status != napi_ok) throw Napi::Error::New(env, "galago: the runtime gave no thread-safe function");
  napi_unref_threadsafe_function(env, completions_->wake);
  env.AddCleanupHook(
      [](std::shared_ptr<Completions>* completions) {
        (*completions)->close();
        delete completions;
      },
      new std::shared_ptr<Completions>(completions_));
}

double Instance::insert(Tensor tensor) {
  uint32_t slot;
  if (free_.empty()) {
    slot = uint32_t(slots_.size());
    if (slot >= slot_limit) fail("ARGUMENT", "too many live tensors");
    slots_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  Slot& s = slots_[slot];
  s.tensor = std::move(tensor);
  s.used = true;
  return slot + double(s.generation) * slot_limit;
}

Tensor* Instance::find(double handle) {
  if (!(handle >= slot_limit && handle < slot_limit * slot_limit)) return nullptr;  // NaN too
  const uint64_t bits = uint64_t(handle);
  const uint32_t slot = uint32_t(bits % uint64_t(slot_limit)), generation = uint32_t(bits / uint64_t(slot_limit));
  if (slot >= slots_.size() || !slots_[slot].used || slots_[slot].generation != generation) return nullptr;
  return &slots_[slot].tensor;
}

bool Instance::remove(double handle) {
  if (!find(handle)) return false;
  const uint32_t slot = uint32_t(uint64_t(handle) % uint64_t(slot_limit));
  Slot& s = slots_[slot];
  s.tensor = Tensor{};
  s.used = false;
  s.generation = s.generation % ((1u << 26) - 1) + 1;
  free_.push_back(slot);
  return true;
}

Napi::Error Instance::error(const Failure& f) {
  Napi::Object fields = Napi::Object::New(env_);
  fields.Set("op", f.kernel);
  if (!f.kernel.empty()) fields.Set("kernel", f.kernel);
  if (f.step >= 0) fields.Set("step", double(f.step));
  if (!f.argument.empty()) fields.Set("argument", f.argument);
  if (f.code == "INDEX") {
    fields.Set("position", double(f.position));
    fields.Set("value", double(f.value));
    fields.Set("bound", double(f.bound));
  }
  if (f.requested > 0) fields.Set("requested", double(f.requested));
  if (f.held) {
    fields.Set("live", double(f.held->live));
    fields.Set("reserved", double(f.held->reserved));
    fields.Set("peak", double(f.held->peak));
    if (f.held->total) {
      fields.Set("free", double(f.held->free));
      fields.Set("total", double(f.held->total));
    }
    if (!f.held->largest.empty()) {
      Napi::Array largest = Napi::Array::New(env_);
      for (size_t bytes : f.held->largest) largest.Set(largest.Length(), double(bytes));
      fields.Set("largest", largest);
    }
  }
  if (make_error.IsEmpty()) return Napi::Error::New(env_, f.message);
  Napi::Value error = make_error.Call({Napi::String::New(env_, f.code), Napi::String::New(env_, f.message), fields});
  return Napi::Error(env_, error);
}

void Instance::fail(const char* code, const std::string& message, const char* kernel, std::string_view argument) {
  Failure failure;
  failure.code = code;
  failure.message = message;
  failure.kernel = kernel;
  failure.argument = argument;
  throw error(failure);
}

Napi::Promise Instance::wait(Backend& backend, std::unique_ptr<Task> (*make)(Backend&, std::shared_ptr<Completions>, uint32_t, Tensor),
                             Tensor tensor) {
  auto deferred = Napi::Promise::Deferred::New(env_);
  const uint32_t id = next_wait_++;
  if (pending_.empty()) napi_ref_threadsafe_function(env_, completions_->wake);
  pending_.emplace(id, deferred);
  Executor::of(backend).submit(make(backend, completions_, id, std::move(tensor)));
  return deferred.Promise();
}

void Instance::drain() {
  std::vector<Completion> done;
  {
    std::lock_guard lock(completions_->mutex);
    done.swap(completions_->done);
    completions_->scheduled = false;
  }
  for (Completion& completion : done) {
    auto found = pending_.find(completion.id);
    Napi::Promise::Deferred deferred = found->second;
    pending_.erase(found);
    settle(deferred, completion);
  }
  if (pending_.empty()) napi_unref_threadsafe_function(env_, completions_->wake);
}

void Instance::settle(Napi::Promise::Deferred deferred, Completion& completion) {
  if (completion.failure) {
    deferred.Reject(error(*completion.failure).Value());
  } else if (!completion.block) {
    deferred.Resolve(env_.Undefined());
  } else if (completion.bytes <= 65536) {
    auto buffer = Napi::ArrayBuffer::New(env_, completion.bytes);
    if (completion.bytes) std::memcpy(buffer.Data(), completion.block.get(), completion.bytes);
    deferred.Resolve(buffer);
  } else {
    auto buffer = Napi::ArrayBuffer::New(env_, completion.block.get(), completion.bytes, [](Napi::Env, void* block) { std::free(block); });
    completion.block.release();  // the buffer's from here on
    deferred.Resolve(buffer);
  }
}

}  // namespace galago
