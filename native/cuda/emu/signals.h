// A kernel that touches memory it must not, or divides an integer by zero, raises a signal on the host. It becomes a fault.
#pragma once

namespace emu {

// While one exists, this thread's signals in a kernel are faults. All others go where they went before. Under AddressSanitizer, which
// explains them better, it does nothing.
class SignalGuard {
 public:
  SignalGuard();
  ~SignalGuard();
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;
};

// What a signal calls, on a stack of its own, while a kernel runs; it does not return. Null: no kernel runs.
using FaultOf = void (*)(int signal, const void* address);
void on_signal(FaultOf fault_of);

}  // namespace emu
