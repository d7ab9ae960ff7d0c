// Turns a kernel entry point into a JavaScript function that checks its arguments and enqueues the call. The C++ signature is the
// schema: argument count, kinds and in/out are read from its type; the names come from the table row ("q k mask? out scale").
#pragma once
#include <napi.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <tuple>

#include "../core/devices.h"
#include "../kernels.h"
#include "instance.h"

namespace galago {

template <size_t N>
struct ArgumentNames {  // a wrong count does not compile
  std::array<std::string_view, N> names{};
  std::array<bool, N> optional{};
  consteval ArgumentNames(const char* s) {
    size_t n = 0;
    while (*s) {
      const char* end = s;
      while (*end && *end != ' ') end++;
      if (n == N) throw "more names than parameters";
      optional[n] = end[-1] == '?';
      names[n] = {s, size_t(end - s) - (optional[n] ? 1 : 0)};
      n++;
      s = *end ? end + 1 : end;
    }
    if (n != N) throw "fewer names than parameters";
  }
};

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
};

// One specialisation per parameter type: what it accepts, how it is kept in the queue, how the kernel gets it, what TypeScript calls it.
template <class P>
struct Argument;

template <>
struct Argument<const Tensor&> {
  using Kept = Tensor;
  static constexpr const char* type = "Handle";
  static Tensor get(Call& call, Napi::Value value, std::string_view argument, bool optional) {
    if (value.IsNull() || value.IsUndefined()) {
      if (!optional) call.fail(argument, "a tensor");
      return {};
    }
    if (!value.IsNumber()) call.fail(argument, "a tensor");
    Tensor* tensor = call.instance.find(value.As<Napi::Number>().DoubleValue());
    if (!tensor)
      call.instance.fail("DISPOSED", std::string(call.kernel) + ": `" + std::string(argument) + "` was released before this call",
                         call.kernel, argument);
    call.on(tensor->storage->backend, argument);
    return *tensor;
  }
  static void prepare(Tensor&) {}
  static void undo(Tensor&) {}
  static bool ready(const Tensor& tensor) { return !tensor || tensor.storage->written(); }
};
template <>
struct Argument<Tensor&> : Argument<const Tensor&> {
  static void prepare(Tensor& tensor) {
    if (!tensor) return;
    tensor.storage->version++;
    tensor.storage->data();  // taken here, so that the threads of a kernel never take it at the same time
  }
  static void undo(Tensor& tensor) {
    if (tensor) tensor.storage->unwrite();
  }
  static bool ready(const Tensor&) { return true; }
};
template <>
struct Argument<const TensorList&> {
  using Kept = TensorList;
  static constexpr const char* type = "HandleList";
  static TensorList get(Call& call, Napi::Value value, std::string_view argument, bool) {
    TensorList list;
    if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float64_array) {
      auto handles = value.As<Napi::Float64Array>();
      list.reserve(handles.ElementLength());
      for (size_t i = 0; i < handles.ElementLength(); i++) {
        Tensor* tensor = call.instance.find(handles[i]);
        if (!tensor)
          call.instance.fail(
              "DISPOSED",
              std::string(call.kernel) + ": `" + std::string(argument) + "[" + std::to_string(i) + "]` was released before this call",
              call.kernel, argument);
        call.on(tensor->storage->backend, argument);
        list.push_back(*tensor);
      }
      return list;
    }
    call.fail(argument, "a Float64Array of tensor handles");
  }
  static void prepare(TensorList&) {}
  static void undo(TensorList&) {}
  static bool ready(const TensorList& list) {
    return std::all_of(list.begin(), list.end(), [](const Tensor& tensor) { return tensor.storage->written(); });
  }
};
template <>
struct Argument<TensorList&> : Argument<const TensorList&> {
  static void prepare(TensorList& list) {
    for (Tensor& tensor : list) Argument<Tensor&>::prepare(tensor);
  }
  static void undo(TensorList& list) {
    for (Tensor& tensor : list) tensor.storage->unwrite();
  }
  static bool ready(const TensorList&) { return true; }
};
// Arguments that are no tensors.
template <class P>
struct PlainArgument {
  using Kept = P;
  static void prepare(const P&) {}
  static void undo(const P&) {}
  static bool ready(const P&) { return true; }
};
template <>
struct Argument<double> : PlainArgument<double> {
  static constexpr const char* type = "number";
  static double get(Call& call, Napi::Value value, std::string_view argument, bool) {
    if (!value.IsNumber()) call.fail(argument, "a number");
    return value.As<Napi::Number>().DoubleValue();
  }
};
template <>
struct Argument<int64_t> : PlainArgument<int64_t> {
  static constexpr const char* type = "number";
  static int64_t get(Call& call, Napi::Value value, std::string_view argument, bool) {
    const double number = Argument<double>::get(call, value, argument, false);
    if (!(std::abs(number) <= 0x1p53) || number != std::trunc(number)) call.fail(argument, "an integer");
    return int64_t(number);
  }
};
template <>
struct Argument<bool> : PlainArgument<bool> {
  static constexpr const char* type = "boolean";
  static bool get(Call& call, Napi::Value value, std::string_view argument, bool) {
    if (!value.IsBoolean()) call.fail(argument, "a boolean");
    return value.As<Napi::Boolean>();
  }
};
template <>
struct Argument<const std::vector<int64_t>&> : PlainArgument<std::vector<int64_t>> {
  static constexpr const char* type = "readonly number[]";
  static Kept get(Call& call, Napi::Value value, std::string_view argument, bool) {
    if (!value.IsArray()) call.fail(argument, "an array of integers");
    auto array = value.As<Napi::Array>();
    Kept list;
    for (uint32_t i = 0; i < array.Length(); i++) list.push_back(Argument<int64_t>::get(call, array.Get(i), argument, false));
    return list;
  }
};

// Enumerations travel as strings. `type` names the union in TypeScript; names are in the order of the enumerators.
template <class E>
struct EnumNames;
template <>
struct EnumNames<Activation> {
  static constexpr const char* type = "Activation";
  static constexpr std::string_view names[] = {"none", "relu", "gelu", "silu", "sigmoid", "tanh"};
};
template <>
struct EnumNames<Binary> {
  static constexpr const char* type = "Binary";
  static constexpr std::string_view names[] = {"add", "sub", "mul", "div"};
};
template <>
struct EnumNames<Unary> {
  static constexpr const char* type = "Unary";
  static constexpr std::string_view names[] = {"exp", "log", "sqrt", "square", "abs", "reciprocal"};
};

template <class P>
requires std::is_enum_v<P>
struct Argument<P> : PlainArgument<P> {
  static constexpr const char* type = EnumNames<P>::type;
  static P get(Call& call, Napi::Value value, std::string_view argument, bool) {
    std::string expected;
    const std::string text = value.IsString() ? std::string(value.As<Napi::String>()) : "";
    for (size_t i = 0; i < std::size(EnumNames<P>::names); i++) {
      if (text == EnumNames<P>::names[i]) return P(i);
      expected += (i ? ", " : "") + std::string(EnumNames<P>::names[i]);
    }
    call.fail(argument, "one of " + expected);
  }
};

template <class... Ps>
class KernelTask final : public Task {
 public:
  using Kept = std::tuple<typename Argument<Ps>::Kept...>;
  KernelTask(const char* name, void (*function)(Ps...), Kept arguments)
      : Task(name), function_(function), arguments_(std::move(arguments)) {}
  void run() override {
    std::apply(
        [&](auto&... argument) {
          (Argument<Ps>::prepare(argument), ...);
          function_(argument...);
        },
        arguments_);
  }
  bool ready() const override {
    return std::apply([](const auto&... argument) { return (Argument<Ps>::ready(argument) && ...); }, arguments_);
  }
  void undo() override {
    std::apply([](auto&... argument) { (Argument<Ps>::undo(argument), ...); }, arguments_);
  }

 private:
  void (*function_)(Ps...);
  Kept arguments_;
};

// Where the rows of table.cpp go. One per environment: worker threads load the addon at the same time.
struct KernelTable {
  Napi::Object functions;
  std::string declarations;  // ts/src/native_kernels.ts is written from this
  std::vector<KernelName> names;
};

template <class... Ps>
void bind_kernel(KernelTable& table, const char* kernel, ArgumentNames<sizeof...(Ps)> names, void (*cpu)(Ps...)) {
  const size_t row = table.names.size();
  table.names.push_back({kernel, typeid(void(Ps...)).name()});
  std::string& text = table.declarations;
  text += std::string("  ") + kernel + "(";
  size_t k = 0;
  ((text += std::string(k ? ", " : "") + std::string(names.names[k]) + ": " + Argument<Ps>::type + (names.optional[k] ? " | null" : ""),
    k++),
   ...);
  text += "): void;\n";
  table.functions.Set(
      kernel, Napi::Function::New(
                  table.functions.Env(),
                  [=](const Napi::CallbackInfo& info) {
                    Instance& instance = Instance::of(info.Env());
                    Call call{instance, kernel};
                    if (info.Length() != sizeof...(Ps))
                      instance.fail("ARGUMENT",
                                    std::string(kernel) + ": expected " + std::to_string(sizeof...(Ps)) + " arguments, received " +
                                        std::to_string(info.Length()),
                                    kernel);
                    [&]<size_t... I>(std::index_sequence<I...>) {
                      // Braces keep the order of evaluation: the first wrong argument is the one named.
                      typename KernelTask<Ps...>::Kept arguments{Argument<Ps>::get(call, info[I], names.names[I], names.optional[I])...};
                      if (!call.backend) instance.fail("ARGUMENT", std::string(kernel) + ": expected a tensor", kernel);
                      Backend& backend = *call.backend;
                      const auto function = backend.kernels ? reinterpret_cast<void (*)(Ps...)>(backend.kernels[row].function) : cpu;
                      if (!function)
                        instance.fail("DEVICE_UNAVAILABLE", std::string(kernel) + ": this build has no " + name(backend.device) + " kernel",
                                      kernel);
                      Executor& executor = Executor::of(backend);
                      if (!executor.submit(std::make_unique<KernelTask<Ps...>>(kernel, function, std::move(arguments))))
                        instance.fail("QUEUE_FULL",
                                      name(backend.device) + ": " + std::to_string(Executor::capacity) +
                                          " calls are queued; await device.synchronize() or a read before queueing more",
                                      kernel);
                    }
                    (std::index_sequence_for<Ps...>{});
                  },
                  kernel));
}

}  // namespace galago
