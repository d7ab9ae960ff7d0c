#include "signals.h"

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <ucontext.h>

namespace emu {
namespace {

constexpr int handled[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction previous[NSIG];
std::atomic<FaultOf> active = nullptr;
pthread_t guarded;

alignas(16) char handler_stack[64 * 1024];  // the kernel's own stack may be what overflowed
alignas(16) char fault_stack[64 * 1024];

// Leaves the handler into active(signal, address) on the fault stack, as if the kernel had called it.
void handle(int signal, siginfo_t* info, void* context) {
  const FaultOf fault_of = active;
  if (fault_of && pthread_equal(pthread_self(), guarded)) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    registers[REG_RIP] = greg_t(reinterpret_cast<uintptr_t>(fault_of));
    registers[REG_RSP] = greg_t(reinterpret_cast<uintptr_t>(fault_stack + sizeof fault_stack - 64) - 8);  // as after a call
    registers[REG_RDI] = signal;
    registers[REG_RSI] = greg_t(reinterpret_cast<uintptr_t>(info->si_addr));
    return;
  }
  const struct sigaction& before = previous[signal];
  if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
  sigaction(signal, &before, nullptr);  // the instruction runs again and gets what it would have got
}

// Each host thread that runs kernels needs a stack for the handler; one runs at a time, so they share it.
stack_t previous_stack;

}  // namespace

void on_signal(FaultOf fault_of) { active = fault_of; }

SignalGuard::SignalGuard() {
  const stack_t stack{.ss_sp = handler_stack, .ss_flags = 0, .ss_size = sizeof handler_stack};
  sigaltstack(&stack, &previous_stack);
  struct sigaction action {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  guarded = pthread_self();
  for (const int signal : handled) sigaction(signal, &action, &previous[signal]);
}

SignalGuard::~SignalGuard() {
  for (const int signal : handled) sigaction(signal, &previous[signal], nullptr);
  sigaltstack(&previous_stack, nullptr);
}

}  // namespace emu

#else

namespace emu {
void on_signal(FaultOf) {}
SignalGuard::SignalGuard() {}
SignalGuard::~SignalGuard() {}
}  // namespace emu

#endif
