// The addon: tensors by handle, waits as promises, one function per kernel.
#include <napi.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "../core/memory.h"
#include "../core/parallel.h"
#include "../cpu/dispatch.h"
#include "bind.h"

namespace galago {

void bind_kernels(KernelTable& table);
std::string enumerations();

namespace {

// Room for a copy of a tensor's bytes on the way to or from JavaScript.
Block copy_room(const char* who, size_t bytes) {
  Block block(std::malloc(bytes ? bytes : 1));
  if (!block) throw OutOfMemory("HOST_MEMORY", std::string(who) + ": out of memory for a copy", bytes, memory_statistics());
  return block;
}

// ---- tasks that are no kernels

class WriteTask final : public Task {
 public:
  WriteTask(Tensor tensor, Block bytes, size_t count)
      : Task("write"), tensor_(std::move(tensor)), bytes_(std::move(bytes)), count_(count) {}
  void run() override {
    tensor_.storage->version++;
    void* const to = tensor_.storage->data();
    if (count_) tensor_.storage->backend.write(to, bytes_.get(), count_);
  }
  void undo() override { tensor_.storage->unwrite(); }

 private:
  Tensor tensor_;
  Block bytes_;
  size_t count_;
};

// Waits for everything queued before it; with a tensor, brings back its bytes.
class WaitTask final : public Task {
 public:
  WaitTask(Backend& backend, std::shared_ptr<Completions> completions, uint32_t id, Tensor tensor)
      : Task("read"), backend_(backend), completions_(std::move(completions)), id_(id), tensor_(std::move(tensor)) {}
  bool is_wait() const override { return true; }
  Landing* landing() override { return landing_.get(); }
  bool ready() const override { return !tensor_ || tensor_.storage->written(); }
  void run() override {
    const size_t bytes = tensor_ ? tensor_.bytes() : 0;
    if (tensor_) block_ = copy_room("read", bytes);
    landing_ = backend_.read(block_.get(), tensor_ ? tensor_.storage->data() : nullptr, bytes);
  }
  void wait_over(const std::optional<Failure>& failure) override {
    const size_t bytes = tensor_ ? tensor_.bytes() : 0;
    landing_.reset();
    tensor_ = {};  // before anyone can know that the read is over and look at the live bytes
    completions_->push({id_, failure, std::move(block_), bytes});
  }

 private:
  Backend& backend_;
  std::shared_ptr<Completions> completions_;
  uint32_t id_;
  Tensor tensor_;
  Block block_;
  std::unique_ptr<Landing> landing_;
};

std::unique_ptr<Task> make_wait(Backend& backend, std::shared_ptr<Completions> completions, uint32_t id, Tensor tensor) {
  return std::make_unique<WaitTask>(backend, std::move(completions), id, std::move(tensor));
}

// For tests: a kernel that takes a while, one that fails, one that reports an index.
class TestTask final : public Task {
 public:
  TestTask(std::string kind, double milliseconds) : Task("test_kernel"), kind_(std::move(kind)), milliseconds_(milliseconds) {}
  void run() override {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double, std::milli>(milliseconds_);
    while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
    if (kind_ == "fail") throw Error("DEVICE_LOST", "test_kernel: planned failure");
    if (kind_ == "index") index_error("test_kernel", "index", 3, 7, 5);
  }

 private:
  std::string kind_;
  double milliseconds_;
};

// ---- exported functions

Tensor& tensor_of(const Napi::CallbackInfo& info, size_t i, const char* function) {
  Tensor* tensor = info[i].IsNumber() ? Instance::of(info.Env()).find(info[i].As<Napi::Number>().DoubleValue()) : nullptr;
  if (!tensor) Instance::of(info.Env()).fail("DISPOSED", std::string(function) + ": the tensor was released before this call", function);
  return *tensor;
}

DeviceKind kind_of(Instance& instance, const std::string& text) {
  if (text == "cpu") return DeviceKind::cpu;
  if (text == "cuda-emu") return DeviceKind::cuda_emu;
  if (text == "cuda" || text.starts_with("cuda:")) return DeviceKind::cuda;
  instance.fail("DEVICE_UNAVAILABLE", text + ": expected cpu, cuda or cuda:0, cuda:1, ...");
}

// "cpu", "cuda" (the first), "cuda:2", "cuda-emu"
Backend& backend_of(const Napi::CallbackInfo& info, size_t i) {
  Instance& instance = Instance::of(info.Env());
  const std::string text = info[i].As<Napi::String>();
  Device device{kind_of(instance, text)};
  if (device.kind == DeviceKind::cuda && text.size() > 5) device.index = std::atoi(text.c_str() + 5);
  try {
    return galago::backend_of(device);
  } catch (const Error& error) { instance.fail(error.code.c_str(), error.what()); }
}

// loadModule(kind, path): the shared object behind 'cuda' or 'cuda-emu'
void load_module(const Napi::CallbackInfo& info) {
  Instance& instance = Instance::of(info.Env());
  try {
    galago::load_module(kind_of(instance, info[0].As<Napi::String>()), info[1].As<Napi::String>());
  } catch (const Error& error) { instance.fail(error.code.c_str(), error.what()); }
}

// probeModule(kind) -> {problem, advice, driverVersion, runtimeVersion, devices}
Napi::Value probe_module(const Napi::CallbackInfo& info) {
  Instance& instance = Instance::of(info.Env());
  ModuleProbe probe;
  try {
    probe = galago::probe_module(kind_of(instance, info[0].As<Napi::String>()));
  } catch (const Error& error) { instance.fail(error.code.c_str(), error.what()); }
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("problem", probe.problem.empty() ? info.Env().Null() : Napi::Value(Napi::String::New(info.Env(), probe.problem)));
  result.Set("advice", probe.advice);
  result.Set("driverVersion", double(probe.driver_version));
  result.Set("runtimeVersion", double(probe.runtime_version));
  Napi::Array devices = Napi::Array::New(info.Env());
  for (const ModuleDevice& device : probe.devices) {
    Napi::Object entry = Napi::Object::New(info.Env());
    entry.Set("name", device.name);
    entry.Set("computeCapability", double(device.compute_capability) / 10);
    entry.Set("memory", double(device.memory));
    devices.Set(devices.Length(), entry);
  }
  result.Set("devices", devices);
  return result;
}

// TypeScript has checked; what an overflow here could do to every kernel makes it worth a second look.
void set_shape(const Napi::CallbackInfo& info, size_t i, Tensor& tensor) {
  Instance& instance = Instance::of(info.Env());
  auto shape = info[i].As<Napi::Array>();
  if (shape.Length() > max_rank) instance.fail("SHAPE", "expected at most 6 dimensions, received " + std::to_string(shape.Length()));
  tensor.rank = int(shape.Length());
  int64_t size = 1;  // of the dimensions that are not 0: row counts are products of some of them
  for (int d = 0; d < tensor.rank; d++) {
    const double dimension = shape.Get(uint32_t(d)).ToNumber();
    if (!(dimension >= 0 && dimension <= double(max_elements)) || dimension != std::trunc(dimension) ||
        __builtin_mul_overflow(size, std::max<int64_t>(int64_t(dimension), 1), &size) || size > max_elements)
      instance.fail("SHAPE", "expected integer dimensions >= 0 with a product of at most 2^53");
    tensor.shape[d] = int64_t(dimension);
  }
}

// create(shape, dtype, device) -> handle
Napi::Value create(const Napi::CallbackInfo& info) {
  Tensor tensor;
  set_shape(info, 0, tensor);
  const uint32_t dtype = info[1].As<Napi::Number>().Uint32Value();
  if (dtype > uint32_t(DType::bfloat16)) Instance::of(info.Env()).fail("DTYPE", "there is no dtype " + std::to_string(dtype));
  tensor.dtype = DType(dtype);
  tensor.storage = std::make_shared<Storage>(backend_of(info, 2), tensor.bytes());
  return Napi::Number::New(info.Env(), Instance::of(info.Env()).insert(std::move(tensor)));
}

// map(shape, dtype, path, offset, fileBytes) -> handle of memory on the CPU that begins with bytes of a file
Napi::Value map(const Napi::CallbackInfo& info) {
  Instance& instance = Instance::of(info.Env());
  const auto number = [&](size_t i) { return size_t(info[i].As<Napi::Number>().Int64Value()); };
  Tensor tensor;
  set_shape(info, 0, tensor);
  tensor.dtype = DType(number(1));
  try {
    auto memory = map_file(info[2].As<Napi::String>(), number(3), number(4), tensor.bytes());
    tensor.storage = std::make_shared<Storage>(galago::backend_of(Device{}), tensor.bytes(), std::move(memory));
  } catch (const Error& error) { instance.fail(error.code.c_str(), error.what()); }
  return Napi::Number::New(info.Env(), instance.insert(std::move(tensor)));
}

// alias(handle, shape) -> handle of the same storage under another shape
Napi::Value alias(const Napi::CallbackInfo& info) {
  Tensor tensor = tensor_of(info, 0, "reshape");
  const int64_t size = tensor.size();
  set_shape(info, 1, tensor);
  if (tensor.size() != size)
    Instance::of(info.Env())
        .fail("SHAPE", "reshape: expected a shape of " + std::to_string(size) + " values, received " + std::to_string(tensor.size()),
              "reshape");
  return Napi::Number::New(info.Env(), Instance::of(info.Env()).insert(std::move(tensor)));
}

Napi::Value release(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Instance::of(info.Env()).remove(info[0].As<Napi::Number>().DoubleValue()));
}

// write(handle, bytes): the bytes are copied now, the tensor changes in queue order
void write(const Napi::CallbackInfo& info) {
  Tensor& tensor = tensor_of(info, 0, "write");
  auto view = info[1].As<Napi::TypedArray>();
  const size_t bytes = view.ByteLength();
  if (bytes != tensor.bytes())
    Instance::of(info.Env())
        .fail("SHAPE", "write: expected " + std::to_string(tensor.bytes()) + " bytes, received " + std::to_string(bytes), "write");
  const char* source = static_cast<const char*>(view.ArrayBuffer().Data()) + view.ByteOffset();
  Block copy;
  try {
    copy = copy_room("write", bytes);
  } catch (const OutOfMemory& error) { throw Instance::of(info.Env()).error(failure_of(error)); }
  if (bytes) std::memcpy(copy.get(), source, bytes);  // an empty array may have no address
  if (!Executor::of(tensor.storage->backend).submit(std::make_unique<WriteTask>(tensor, std::move(copy), bytes)))
    Instance::of(info.Env())
        .fail("QUEUE_FULL", "write: the queue is full; await device.synchronize() or a read before queueing more", "write");
}

Napi::Value read(const Napi::CallbackInfo& info) {
  Tensor& tensor = tensor_of(info, 0, "read");
  return Instance::of(info.Env()).wait(tensor.storage->backend, make_wait, tensor);
}

Napi::Value synchronize(const Napi::CallbackInfo& info) { return Instance::of(info.Env()).wait(backend_of(info, 0), make_wait, {}); }

Napi::Value memory(const Napi::CallbackInfo& info) {
  const MemoryStatistics statistics = backend_of(info, 0).memory();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("live", double(statistics.live));
  result.Set("reserved", double(statistics.reserved));
  result.Set("peak", double(statistics.peak));
  result.Set("allocations", double(statistics.allocations));
  result.Set("tensors", double(Instance::of(info.Env()).tensors()));
  return result;
}

// setProfile(device, on); profile(device) -> {kernel: {calls, seconds, cpuSeconds}}
void set_profile(const Napi::CallbackInfo& info) { Executor::of(backend_of(info, 0)).set_profile(info[1].As<Napi::Boolean>()); }

Napi::Value profile(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  for (const auto& [kernel, time] : Executor::of(backend_of(info, 0)).profile()) {
    Napi::Object entry = Napi::Object::New(info.Env());
    entry.Set("calls", double(time.calls));
    entry.Set("seconds", time.seconds);
    entry.Set("cpuSeconds", time.cpu_seconds);
    result.Set(kernel, entry);
  }
  return result;
}

// Reads the variables of the environment that the engine obeys; throws what is wrong with them.
void check_settings(const Napi::CallbackInfo&) {
  thread_setting();
  cpu::isa();
}

Napi::Value information(const Napi::CallbackInfo& info) {
  static constexpr const char* isa_names[] = {"portable", "avx2", "avx512"};
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("isa", isa_names[int(cpu::isa())]);
  result.Set("threads", double(num_threads()));
  result.Set("compiler", __VERSION__);
  return result;
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData<Instance>(new Instance(env));
  const auto add = [&](const char* name, auto function) { exports.Set(name, Napi::Function::New(env, function, name)); };
  add("create", create);
  add("map", map);
  add("alias", alias);
  add("release", release);
  add("write", write);
  add("read", read);
  add("synchronize", synchronize);
  add("memory", memory);
  add("setProfile", set_profile);
  add("profile", profile);
  add("checkSettings", check_settings);
  add("info", information);
  add("setErrorFactory",
      [](const Napi::CallbackInfo& info) { Instance::of(info.Env()).make_error = Napi::Persistent(info[0].As<Napi::Function>()); });
  add("setStep",
      [](const Napi::CallbackInfo& info) { Executor::of(backend_of(info, 0)).set_step(info[1].As<Napi::Number>().Int64Value()); });
  add("queued", [](const Napi::CallbackInfo& info) -> Napi::Value {
    return Napi::Number::New(info.Env(), double(Executor::of(backend_of(info, 0)).queued()));
  });
  add("setThreads", [](const Napi::CallbackInfo& info) { set_num_threads(info[0].As<Napi::Number>().Int32Value()); });
  add("resetPeak", [](const Napi::CallbackInfo& info) { backend_of(info, 0).reset_peak(); });
  add("loadModule", load_module);
  add("probeModule", probe_module);
  add("testPoison", [](const Napi::CallbackInfo& info) { poison_memory(info[0].As<Napi::Boolean>()); });
  add("testFailAllocation",
      [](const Napi::CallbackInfo& info) { backend_of(info, 1).fail_allocation(info[0].As<Napi::Number>().Int64Value()); });
  add("testGridLimit", [](const Napi::CallbackInfo& info) {
    for (Backend* backend : open_backends()) backend->set_grid_limit(info[0].As<Napi::Number>().Int32Value());
  });
  add("testKernel", [](const Napi::CallbackInfo& info) {
    Executor::of(galago::backend_of(Device{}))
        .submit(std::make_unique<TestTask>(info[0].As<Napi::String>(), info[1].As<Napi::Number>().DoubleValue()));
  });
  KernelTable table{Napi::Object::New(env), {}, {}};
  bind_kernels(table);
  exports.Set("kernels", table.functions);
  exports.Set("declarations", table.declarations);
  exports.Set("enumerations", enumerations());
  return exports;
}

}  // namespace

NODE_API_MODULE(galago, initialize)

}  // namespace galago
