// The part of bind.h that all kernels share: checks of arguments, the task in the queue, the JavaScript function.
#include "bind.h"

#include <algorithm>
#include <cmath>

namespace galago {

struct Call {
  Instance& instance;
  const char* kernel;
  Backend* backend = nullptr;  // of the tensors so far
  [[noreturn]] void fail(std::string_view argument, const std::string& want) const {
    instance.fail("ARGUMENT", std::string(kernel) + ": expected `" + std::string(argument) + "` to be " + want, kernel, argument);
  }
  void on(Backend& other, std::string_view argument) {
    if (backend && backend != &other)
      instance.fail("DTYPE",
                    std::string(kernel) + ": expected `" + std::string(argument) + "` on " + name(backend->device) +
                        " like the arguments before it, received " + name(other.device),
                    kernel, argument);
    backend = &other;
  }
  // `what` names it in a message: the argument, or an element of the list that it is.
  const Tensor& tensor(double handle, std::string_view argument, const std::string& what) {
    Tensor* found = instance.find(handle);
    if (!found) instance.fail("DISPOSED", std::string(kernel) + ": `" + what + "` was released before this call", kernel, argument);
    on(found->storage->backend, argument);
    return *found;
  }
};

// ---- arguments

Kept get_tensor(Call& call, const Napi::Value& value, std::string_view argument, bool optional) {
  if (value.IsNull() || value.IsUndefined()) {
    if (!optional) call.fail(argument, "a tensor");
    return Tensor{};
  }
  if (!value.IsNumber()) call.fail(argument, "a tensor");
  return call.tensor(value.As<Napi::Number>().DoubleValue(), argument, std::string(argument));
}

Kept get_tensors(Call& call, const Napi::Value& value, std::string_view argument, bool) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
    call.fail(argument, "a Float64Array of tensor handles");
  auto handles = value.As<Napi::Float64Array>();
  TensorList list;
  list.reserve(handles.ElementLength());
  for (size_t i = 0; i < handles.ElementLength(); i++)
    list.push_back(call.tensor(handles[i], argument, std::string(argument) + "[" + std::to_string(i) + "]"));
  return list;
}

static double number(Call& call, const Napi::Value& value, std::string_view argument) {
  if (!value.IsNumber()) call.fail(argument, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

static int64_t integer(Call& call, const Napi::Value& value, std::string_view argument) {
  const double given = number(call, value, argument);
  if (!(std::abs(given) <= 0x1p53) || given != std::trunc(given)) call.fail(argument, "an integer");
  return int64_t(given);
}

Kept get_number(Call& call, const Napi::Value& value, std::string_view argument, bool) { return number(call, value, argument); }

Kept get_integer(Call& call, const Napi::Value& value, std::string_view argument, bool) { return integer(call, value, argument); }

Kept get_boolean(Call& call, const Napi::Value& value, std::string_view argument, bool) {
  if (!value.IsBoolean()) call.fail(argument, "a boolean");
  return int64_t(value.As<Napi::Boolean>().Value());
}

Kept get_integers(Call& call, const Napi::Value& value, std::string_view argument, bool) {
  if (!value.IsArray()) call.fail(argument, "an array of integers");
  auto array = value.As<Napi::Array>();
  std::vector<int64_t> list;
  for (uint32_t i = 0; i < array.Length(); i++) list.push_back(integer(call, array.Get(i), argument));
  return list;
}

Kept get_enumerator(Call& call, const Napi::Value& value, std::string_view argument, std::span<const std::string_view> names) {
  std::string expected;
  const std::string text = value.IsString() ? std::string(value.As<Napi::String>()) : "";
  for (size_t i = 0; i < names.size(); i++) {
    if (text == names[i]) return int64_t(i);
    expected += (i ? ", " : "") + std::string(names[i]);
  }
  call.fail(argument, "one of " + expected);
}

// ---- the task

namespace {

// Calls f on the tensor, or on every one of the list.
template <class K, class F>
void for_tensors(K& kept, const F& f) {
  if (auto* tensor = std::get_if<Tensor>(&kept)) {
    if (*tensor) f(*tensor);
  } else if (auto* list = std::get_if<TensorList>(&kept)) {
    for (auto& each : *list) f(each);
  }
}

class KernelTask final : public Task {
 public:
  KernelTask(const Kernel& kernel, KernelFunction function, std::vector<Kept> arguments)
      : Task(kernel.name), kernel_(kernel), function_(function), arguments_(std::move(arguments)) {}
  void run() override {
    for (size_t i = 0; i < arguments_.size(); i++)
      if (kernel_.parameters[i].written)
        for_tensors(arguments_[i], [](Tensor& tensor) {
          tensor.storage->version++;
          tensor.storage->data();  // taken here, so that the threads of a kernel never take it at the same time
        });
    kernel_.call(function_, arguments_.data());
  }
  bool ready() const override {
    bool all = true;
    for (size_t i = 0; i < arguments_.size(); i++)
      if (!kernel_.parameters[i].written) for_tensors(arguments_[i], [&](const Tensor& tensor) { all = all && tensor.storage->written(); });
    return all;
  }
  void undo() override {
    for (size_t i = 0; i < arguments_.size(); i++)
      if (kernel_.parameters[i].written) for_tensors(arguments_[i], [](Tensor& tensor) { tensor.storage->unwrite(); });
  }

 private:
  const Kernel kernel_;
  const KernelFunction function_;
  std::vector<Kept> arguments_;
};

// ---- the JavaScript function

struct ArgumentName {
  std::string_view name;
  bool optional;
};

std::vector<ArgumentName> split(std::string_view text) {
  std::vector<ArgumentName> names;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    const bool optional = word.back() == '?';
    names.push_back({word.substr(0, word.size() - (optional ? 1 : 0)), optional});
    text.remove_prefix(std::min(text.size(), word.size() + 1));
  }
  return names;
}

void enqueue(const Napi::CallbackInfo& info, const Kernel& kernel, const std::vector<ArgumentName>& names, size_t row) {
  Instance& instance = Instance::of(info.Env());
  const std::string who = kernel.name;
  Call call{instance, kernel.name};
  if (info.Length() != names.size())
    instance.fail("ARGUMENT", who + ": expected " + std::to_string(names.size()) + " arguments, received " + std::to_string(info.Length()),
                  kernel.name);
  std::vector<Kept> arguments;
  arguments.reserve(names.size());
  for (size_t i = 0; i < names.size(); i++) arguments.push_back(kernel.parameters[i].get(call, info[i], names[i].name, names[i].optional));
  if (!call.backend) instance.fail("ARGUMENT", who + ": expected a tensor", kernel.name);
  Backend& backend = *call.backend;
  const KernelFunction function = backend.kernels ? backend.kernels[row].function : kernel.cpu;
  if (!function) instance.fail("DEVICE_UNAVAILABLE", who + ": this build has no " + name(backend.device) + " kernel", kernel.name);
  if (!Executor::of(backend).submit(std::make_unique<KernelTask>(kernel, function, std::move(arguments))))
    instance.fail("QUEUE_FULL",
                  name(backend.device) + ": " + std::to_string(Executor::capacity) +
                      " calls are queued; await device.synchronize() or a read before queueing more",
                  kernel.name);
}

}  // namespace

void KernelTable::add(const Kernel& kernel) {
  const size_t row = names.size();
  names.push_back({kernel.name, kernel.signature});
  const std::vector<ArgumentName> arguments = split(kernel.names);
  declarations += std::string("  ") + kernel.name + "(";
  for (size_t i = 0; i < arguments.size(); i++)
    declarations +=
        (i ? ", " : "") + std::string(arguments[i].name) + ": " + kernel.parameters[i].type + (arguments[i].optional ? " | null" : "");
  declarations += "): void;\n";
  functions.Set(kernel.name,
                Napi::Function::New(
                    functions.Env(), [kernel, arguments, row](const Napi::CallbackInfo& info) { enqueue(info, kernel, arguments, row); },
                    kernel.name));
}

}  // namespace galago
