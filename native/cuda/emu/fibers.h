// Stacks that run by turns on one thread of the host. A switch saves six registers: no system call.
#pragma once
#include <cstddef>

namespace emu {

struct Fiber {
  void* stack_pointer = nullptr;  // where it continues, while it does not run
  char* stack = nullptr;          // lowest byte; null for the host's own stack
  size_t stack_bytes = 0;
  void* address_sanitizer_state = nullptr;
};

// Gives `fiber` a stack with an unmapped page below it, or cleans the one it has, so that a switch to it enters `body`, which never
// returns. `index` spreads the tops of the stacks over the sets of the cache.
void prepare(Fiber& fiber, void (*body)(), unsigned index);

// Leaves `from`, which must be running, for `to`. Returns when something switches back to `from`.
void switch_fiber(Fiber& from, Fiber& to);

// Must be the first statement of `body`.
void fiber_entered();

}  // namespace emu
