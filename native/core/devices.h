// The devices of this process: the CPU, and those of loaded modules.
#pragma once
#include <vector>

#include "module.h"

namespace galago {

// Loads the shared object that serves this kind of device; a second call does nothing. Throws Error DEVICE_UNAVAILABLE.
void load_module(DeviceKind kind, const std::string& path);
ModuleProbe probe_module(DeviceKind kind);  // of a loaded one
// Opens the device on first use. Throws Error DEVICE_UNAVAILABLE.
Backend& backend_of(Device device);
std::vector<Backend*> open_backends();
// Whether the tests' poison is on: also for devices opened later.
void poison_memory(bool on);

struct KernelName {
  const char *name, *signature;
};
// The rows of table.inl, which a module must match.
void set_kernel_names(std::vector<KernelName> names);

}  // namespace galago
