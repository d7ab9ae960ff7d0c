// What this shared object offers to the addon: its kernels in the order of table.inl, and the devices that it can open.
#include <vector>

#include "../core/module.h"
#include "device.cuh"

namespace galago::cuda {

// Weak: a kernel that this build lacks is null here, and calling it says so.
#define KERNEL(function, names) extern decltype(function) function __attribute__((weak))
#include "../table.inl"
#undef KERNEL

static const std::vector<ModuleKernel>& kernels() {
  static const std::vector<ModuleKernel> list = [] {
    std::vector<ModuleKernel> rows;
#define KERNEL(function, names) rows.push_back({#function, typeid(decltype(function)).name(), reinterpret_cast<void (*)()>(&function)})
#include "../table.inl"
#undef KERNEL
    return rows;
  }();
  return list;
}

}  // namespace galago::cuda

extern "C" __attribute__((visibility("default"))) const galago::Module* galago_module() {
  using namespace galago;
  static const Module module{module_interface, cuda::kernels().data(), cuda::kernels().size(), cuda::probe, cuda::open};
  return &module;
}
