#include "devices.h"

#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>

#include "memory.h"

namespace galago {

namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend() : Backend(Device{}) {}
  void* allocate(size_t bytes) override { return galago::allocate(bytes); }
  void deallocate(void* block, size_t bytes) noexcept override { galago::deallocate(block, bytes); }
  MemoryStatistics memory() override { return memory_statistics(); }
  void reset_peak() override { galago::reset_peak(); }
  void set_memory_poison(bool on) override { galago::set_memory_poison(on); }
  void fail_allocation(int64_t k) override { galago::fail_allocation(k); }
  void set_grid_limit(int) override {}
  void start() override {}
  void write(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  std::unique_ptr<Landing> read(void* to, const void* from, size_t bytes) override {
    if (bytes) std::memcpy(to, from, bytes);
    return nullptr;
  }
  void finish() override {}
};

struct Registry {
  std::mutex mutex;
  std::map<DeviceKind, const Module*> modules;
  std::vector<Backend*> open;
  std::vector<KernelName> names;
  bool poison = false;
};

Registry& registry() {
  static Registry* const instance = new Registry;  // never destroyed: executors outlive static destruction
  return *instance;
}

[[noreturn]] void unavailable(DeviceKind kind, const std::string& why) {
  throw Error("DEVICE_UNAVAILABLE", std::string(kind == DeviceKind::cuda ? "cuda" : "cuda-emu") + ": " + why);
}

const Module& module_of(DeviceKind kind) {  // mutex held
  const auto found = registry().modules.find(kind);
  if (found == registry().modules.end()) unavailable(kind, "its module is not loaded");
  return *found->second;
}

}  // namespace

void set_kernel_names(std::vector<KernelName> names) {
  std::lock_guard lock(registry().mutex);
  registry().names = std::move(names);
}

void load_module(DeviceKind kind, const std::string& path) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  if (r.modules.contains(kind)) return;
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!handle) unavailable(kind, std::string("the module could not be loaded: ") + dlerror());
  const auto entry = reinterpret_cast<decltype(&galago_module)>(dlsym(handle, "galago_module"));
  if (!entry) unavailable(kind, path + " is no module of galago");
  const Module* const module = entry();
  const std::string other = path + " belongs to another build of galago: ";
  if (std::strcmp(module->interface, module_interface) != 0)
    unavailable(kind, other + module->interface + " instead of " + module_interface);
  if (module->kernel_count != r.names.size()) unavailable(kind, other + std::to_string(module->kernel_count) + " kernels");
  for (size_t i = 0; i < r.names.size(); i++)
    if (std::strcmp(module->kernels[i].name, r.names[i].name) != 0 || std::strcmp(module->kernels[i].signature, r.names[i].signature) != 0)
      unavailable(kind, other + "it has " + module->kernels[i].name + " in the place of " + r.names[i].name);
  r.modules.emplace(kind, module);
}

ModuleProbe probe_module(DeviceKind kind) {
  std::lock_guard lock(registry().mutex);
  return module_of(kind).probe();
}

Backend& backend_of(Device device) {
  static Backend* const cpu = new CpuBackend;
  if (device.kind == DeviceKind::cpu) return *cpu;
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  for (Backend* backend : r.open)
    if (backend->device == device) return *backend;
  const Module& module = module_of(device.kind);
  Backend* const backend = module.open(device.index);
  backend->kernels = module.kernels;
  backend->set_memory_poison(r.poison);
  r.open.push_back(backend);
  return *backend;
}

std::vector<Backend*> open_backends() {
  std::vector<Backend*> all{&backend_of(Device{})};
  std::lock_guard lock(registry().mutex);
  all.insert(all.end(), registry().open.begin(), registry().open.end());
  return all;
}

void poison_memory(bool on) {
  {
    std::lock_guard lock(registry().mutex);
    registry().poison = on;
  }
  for (Backend* backend : open_backends()) backend->set_memory_poison(on);
}

}  // namespace galago
