// Turns a kernel entry point into a JavaScript function that checks its arguments and enqueues the call. The C++ signature is the
// schema: argument count, kinds and in/out are read from its type; the names come from the table row ("q k mask? out scale").
// What depends on the signature is a list of kinds and one function that calls the kernel; everything else is shared (bind.cpp).
#pragma once
#include <napi.h>

#include <span>
#include <string_view>
#include <typeinfo>
#include <variant>

#include "../core/devices.h"
#include "../kernels.h"
#include "instance.h"

namespace galago {

template <size_t N>
struct ArgumentNames {
  const char* text;
  consteval ArgumentNames(const char* s) : text(s) {  // a wrong count does not compile
    size_t n = 0;
    for (; *s; s++) n += *s != ' ' && (s[1] == ' ' || !s[1]);
    if (n != N) throw "one name per parameter";
  }
};

// An argument as it is kept in the queue. Booleans and enumerators are integers.
using Kept = std::variant<double, int64_t, Tensor, TensorList, std::vector<int64_t>>;

struct Call;

// What a parameter accepts, from its C++ type.
struct ParameterKind {
  const char* type;  // in TypeScript
  Kept (*get)(Call& call, const Napi::Value& value, std::string_view argument, bool optional);
  bool written = false;  // the kernel writes these tensors
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

Kept get_tensor(Call& call, const Napi::Value& value, std::string_view argument, bool optional);
Kept get_tensors(Call& call, const Napi::Value& value, std::string_view argument, bool);
Kept get_number(Call& call, const Napi::Value& value, std::string_view argument, bool);
Kept get_integer(Call& call, const Napi::Value& value, std::string_view argument, bool);
Kept get_boolean(Call& call, const Napi::Value& value, std::string_view argument, bool);
Kept get_integers(Call& call, const Napi::Value& value, std::string_view argument, bool);
Kept get_enumerator(Call& call, const Napi::Value& value, std::string_view argument, std::span<const std::string_view> names);

// One specialisation per parameter type: its kind, and how the kernel gets what was kept.
template <class P>
struct Argument {
  static_assert(std::is_enum_v<P>);
  static Kept get(Call& call, const Napi::Value& value, std::string_view argument, bool) {
    return get_enumerator(call, value, argument, EnumNames<P>::names);
  }
  static constexpr ParameterKind kind{EnumNames<P>::type, get};
  static P pass(Kept& kept) { return P(std::get<int64_t>(kept)); }
};
template <>
struct Argument<const Tensor&> {
  static constexpr ParameterKind kind{"Handle", get_tensor};
  static const Tensor& pass(Kept& kept) { return std::get<Tensor>(kept); }
};
template <>
struct Argument<Tensor&> {
  static constexpr ParameterKind kind{"Handle", get_tensor, true};
  static Tensor& pass(Kept& kept) { return std::get<Tensor>(kept); }
};
template <>
struct Argument<const TensorList&> {
  static constexpr ParameterKind kind{"HandleList", get_tensors};
  static const TensorList& pass(Kept& kept) { return std::get<TensorList>(kept); }
};
template <>
struct Argument<TensorList&> {
  static constexpr ParameterKind kind{"HandleList", get_tensors, true};
  static TensorList& pass(Kept& kept) { return std::get<TensorList>(kept); }
};
template <>
struct Argument<double> {
  static constexpr ParameterKind kind{"number", get_number};
  static double pass(Kept& kept) { return std::get<double>(kept); }
};
template <>
struct Argument<int64_t> {
  static constexpr ParameterKind kind{"number", get_integer};
  static int64_t pass(Kept& kept) { return std::get<int64_t>(kept); }
};
template <>
struct Argument<bool> {
  static constexpr ParameterKind kind{"boolean", get_boolean};
  static bool pass(Kept& kept) { return std::get<int64_t>(kept) != 0; }
};
template <>
struct Argument<const std::vector<int64_t>&> {
  static constexpr ParameterKind kind{"readonly number[]", get_integers};
  static const std::vector<int64_t>& pass(Kept& kept) { return std::get<std::vector<int64_t>>(kept); }
};

using KernelFunction = void (*)();  // of any signature

// A row of the table.
struct Kernel {
  const char* name;
  const char* signature;  // typeid(...).name() of the function type
  const char* names;      // of the arguments
  std::span<const ParameterKind> parameters;
  KernelFunction cpu;
  void (*call)(KernelFunction function, Kept* arguments);
};

// Where the rows of table.cpp go. One per environment: worker threads load the addon at the same time.
struct KernelTable {
  Napi::Object functions;
  std::string declarations;  // ts/src/native_kernels.ts is written from this
  std::vector<KernelName> names;
  void add(const Kernel& kernel);
};

template <class... Ps>
struct Signature {
  static constexpr ParameterKind parameters[] = {Argument<Ps>::kind...};
  static void call(KernelFunction function, Kept* arguments) {
    [&]<size_t... I>(std::index_sequence<I...>) { reinterpret_cast<void (*)(Ps...)>(function)(Argument<Ps>::pass(arguments[I])...); }
    (std::index_sequence_for<Ps...>{});
  }
};

template <class... Ps>
void bind_kernel(KernelTable& table, const char* name, ArgumentNames<sizeof...(Ps)> names, void (*cpu)(Ps...)) {
  using S = Signature<Ps...>;
  table.add({name, typeid(void(Ps...)).name(), names.text, S::parameters, reinterpret_cast<KernelFunction>(cpu), S::call});
}

}  // namespace galago
