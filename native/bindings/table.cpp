// Binds every row of table.inl: checks and TypeScript declarations follow from the C++ type.
#include "bind.h"

namespace galago {

#define KERNEL(function, names) bind_kernel(table, #function, names, cpu::function)

void bind_kernels(KernelTable& table) {
#include "../table.inl"
  set_kernel_names(table.names);
}

// The unions of strings that enumerations are in TypeScript.
template <class E>
static std::string union_type() {
  std::string text = std::string("export type ") + EnumNames<E>::type + " =";
  for (size_t i = 0; i < std::size(EnumNames<E>::names); i++) text += (i ? " | '" : " '") + std::string(EnumNames<E>::names[i]) + "'";
  return text + ";\n";
}

std::string enumerations() { return union_type<Activation>() + union_type<Binary>() + union_type<Unary>(); }

}  // namespace galago
