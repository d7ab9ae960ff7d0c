// A backend in a shared object of its own, loaded when its device is first asked for: what it exports.
#pragma once
#include <typeinfo>

#include "backend.h"

namespace galago {

// Both sides share C++ types, so they come from one build: the text changes with their layout, and every kernel carries its signature.
constexpr const char* module_interface = "galago module 1, " __VERSION__;

struct ModuleKernel {
  const char* name;
  const char* signature;  // typeid of the function type
  void (*function)();     // null: not in this module
};

struct ModuleDevice {
  std::string name;
  int compute_capability = 0;  // 90 for 9.0
  size_t memory = 0;           // bytes
};

struct ModuleProbe {
  std::string problem, advice;  // empty where the device can be used
  int driver_version = 0;       // as CUDA counts: 13000 for 13.0; 0 = no driver
  int runtime_version = 0;
  std::vector<ModuleDevice> devices;
};

struct Module {
  const char* interface;
  const ModuleKernel* kernels;
  size_t kernel_count;
  ModuleProbe (*probe)();
  Backend* (*open)(int index);  // throws Error DEVICE_UNAVAILABLE
};

}  // namespace galago

// The entry point of a module.
extern "C" const galago::Module* galago_module();
