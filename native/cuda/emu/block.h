// How a block of CUDA threads runs on one thread of the host, and what the bodies of instructions are made of.
//
// One block at a time. A thread is a plain call until it has to wait: then its stack is left (fibers.h) for another thread. Where threads
// may run in any order, the order is chosen: forward, backward or shuffled. Kernels must give the same bits in all three.
//
// What real hardware leaves undefined is a fault here: the launch ends, and its error stays with the device, as after CUDA's error 719.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <type_traits>

#include "types.h"

namespace emu {

constexpr int warp_width = 32;
constexpr int max_block_threads = 1024;
constexpr size_t max_shared_bytes = 227 * 1024;        // of a block, all together
constexpr size_t max_static_shared_bytes = 48 * 1024;  // of them declared with SHARED

// ---- the running thread

struct Registers {
  uint3 thread{}, block{};
  dim3 block_size, grid_size;
  int linear = 0;  // index within the block
  int lane = 0;    // index within the warp
};
extern Registers registers;

// Ends the launch; the message names kernel, block and thread. The number is CUDA's error.
enum class Fault : int { none = 0, illegal_address = 700, misaligned_address = 716, launch_failure = 719 };
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));  // launch_failure
[[noreturn]] void fault(Fault kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

// An access of `bytes` whose address is no multiple of them is a fault on the device too.
inline void require_aligned(const void* address, size_t bytes, const char* what = "access") {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fault(Fault::misaligned_address, "%s of %zu bytes at the misaligned address %p", what, bytes, address);
}

// ---- waiting

// All threads of the block (count 0) or `count` threads meet at barrier `id` (0 to 15). With count 0 they must meet at one place in the
// source. Returns the sum of `value` over them.
int barrier(const char* instruction, std::source_location where, int id = 0, int count = 0, int value = 0);

using Leader = void (*)(void* const* values, unsigned mask, void* function);
void meet_in_warp(const char* instruction, unsigned mask, void* value, Leader leader, void* function);
void meet_in_warpgroup(const char* instruction, void* value, Leader leader, void* function);

constexpr unsigned all_lanes = 0xffffffffu;

// An instruction that lanes execute together. They meet, and the last one calls f(T* values), which reads and writes all of their values,
// values[lane]; then each has its own back and continues. Elements outside the mask are not initialised. Every lane's mask must name the
// lane itself, be equal among the lanes that it names, and name no lane that has returned; all must be in the same instruction.
template <class T, class F>
void warp_collective(T& value, F&& f, unsigned mask = all_lanes, const char* instruction = __builtin_FUNCTION()) {
  using Function = std::remove_reference_t<F>;
  const Leader leader = [](void* const* each, unsigned lanes, void* function) {
    T values[warp_width];
    for (unsigned left = lanes; left; left &= left - 1) values[__builtin_ctz(left)] = *static_cast<T*>(each[__builtin_ctz(left)]);
    (*static_cast<Function*>(function))(values);
    for (unsigned left = lanes; left; left &= left - 1) *static_cast<T*>(each[__builtin_ctz(left)]) = values[__builtin_ctz(left)];
  };
  meet_in_warp(instruction, mask, &value, leader, const_cast<void*>(static_cast<const void*>(&f)));
}

// The same for the 128 threads of a warpgroup, values[0] to values[127]. T is small: it may point into the stacks of the threads.
template <class T, class F>
void warpgroup_collective(T& value, F&& f, const char* instruction = __builtin_FUNCTION()) {
  using Function = std::remove_reference_t<F>;
  const Leader leader = [](void* const* each, unsigned, void* function) {
    T values[128];
    for (int i = 0; i < 128; i++) values[i] = *static_cast<T*>(each[i]);
    (*static_cast<Function*>(function))(values);
    for (int i = 0; i < 128; i++) *static_cast<T*>(each[i]) = values[i];
  };
  meet_in_warpgroup(instruction, &value, leader, const_cast<void*>(static_cast<const void*>(&f)));
}

// Waits until `ready()`, which other threads make true. If nothing can any more, it is a fault (deadlock).
void wait_for(const char* instruction, bool (*ready)(void*), void* function);
template <class F>
void wait_until(const char* instruction, F&& ready) {
  if (ready()) return;
  wait_for(
      instruction, [](void* f) { return bool((*static_cast<std::remove_reference_t<F>*>(f))()); }, &ready);
}

// Lets every other thread that can run go first: for loops that poll memory.
void yield();

// ---- shared memory: an arena per block. Every object lies between guard zones; both are filled with NaN bits when the block starts.

struct SharedSite {  // one per place in the source and instantiation
  uint64_t block = 0;
  void* object = nullptr;
};
extern uint64_t block_serial;
void allocate_shared(SharedSite& site, size_t bytes, size_t alignment, const char* name);

template <class T>
inline T& shared_object(SharedSite& site, const char* name) {
  if (site.block != block_serial) allocate_shared(site, sizeof(T), alignof(T), name);
  return *static_cast<T*>(site.object);
}
void* dynamic_shared();

// The 32-bit address of shared memory, as PTX wants it, and back. A fault where [pointer, pointer + bytes) is not one object's.
uint32_t shared_address(const void* pointer, size_t bytes = 1);
void* shared_pointer(uint32_t address, size_t bytes = 1);

// ---- cp.async: a copy from global to shared memory lands only when its thread waits for it

// `bytes` is 4, 8 or 16; of them `filled` are read, the rest become zero. Addresses are aligned to `bytes`.
void defer_copy(void* to_shared, const void* from, int bytes, int filled);
void commit_copies();               // the copies since the last commit are one group
void wait_copies(int groups_left);  // until at most so many groups of this thread are pending; 0 also lands copies not committed

// ---- for runtime.cpp

enum class Order : uint8_t { forward, backward, shuffled };
void set_order(Order order);  // GALAGO_EMU_ORDER, read before every launch, until called
Order order();
uint64_t switches();  // between stacks, since the process started

struct Launch {
  dim3 grid, block;
  size_t shared;
  const void* kernel;                 // for its name
  const std::function<void()>& call;  // the kernel with its arguments, once per thread
};
struct Outcome {
  Fault fault;
  std::string message;
};
Outcome run_launch(const Launch& launch);  // one caller at a time

std::string symbol_name(const void* function);  // "galago::cuda::fill_kernel<float>(...)"

}  // namespace emu

inline constexpr const uint3& threadIdx = emu::registers.thread;
inline constexpr const uint3& blockIdx = emu::registers.block;
inline constexpr const dim3& blockDim = emu::registers.block_size;
inline constexpr const dim3& gridDim = emu::registers.grid_size;
inline constexpr int warpSize = emu::warp_width;

// A block's own memory: `SHARED(float[32], sums);`, in types without commas.
#define SHARED(type, name)                        \
  using shared_type_of_##name = type;             \
  static ::emu::SharedSite shared_site_of_##name; \
  shared_type_of_##name& name = ::emu::shared_object<shared_type_of_##name>(shared_site_of_##name, #name)
// The memory whose size the launch states, aligned to 128 bytes (and on purpose to no more): `DYNAMIC_SHARED(float, tile);`
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::emu::dynamic_shared())
