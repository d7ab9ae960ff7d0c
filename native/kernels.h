// Every backend has the same entry points with the same signatures: see kernels.inl.
#pragma once
#include <string_view>

#include "core/error.h"
#include "core/tensor.h"

namespace galago {

enum class Activation : uint8_t { none, relu, gelu, silu, sigmoid, tanh };
enum class Binary : uint8_t { add, sub, mul, div };
enum class Unary : uint8_t { exp, log, sqrt, square, abs, reciprocal };

namespace cpu {
#include "kernels.inl"
}
namespace cuda {
#include "kernels.inl"
}

}  // namespace galago
