#include "fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_bytes = 256 * 1024;
#else
constexpr size_t stack_bytes = 64 * 1024;
#endif

}  // namespace

#if defined(__x86_64__)

// System V: a call keeps rbx, rbp and r12 to r15; everything else is the caller's to save.
extern "C" __attribute__((visibility("hidden"))) void emu_switch(void** save, void* load);
asm(R"(
.text
.weak emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
)");

static void start_at(Fiber& fiber, char* top, void (*body)()) {
  void** slot = reinterpret_cast<void**>(top);
  *--slot = nullptr;  // where body would return to; also ends a debugger's walk
  *--slot = reinterpret_cast<void*>(body);
  for (int i = 0; i < 6; i++) *--slot = nullptr;
  fiber.stack_pointer = slot;
}

static void jump(Fiber& from, Fiber& to) { emu_switch(&from.stack_pointer, to.stack_pointer); }

#else  // any other processor: slower, a system call per switch

static ucontext_t& context_of(Fiber& fiber) {
  if (!fiber.stack_pointer) fiber.stack_pointer = new ucontext_t;
  return *static_cast<ucontext_t*>(fiber.stack_pointer);
}
static void start_at(Fiber& fiber, char* top, void (*body)()) {
  ucontext_t& context = context_of(fiber);
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = size_t(top - fiber.stack);
  context.uc_link = nullptr;
  makecontext(&context, body, 0);
}
static void jump(Fiber& from, Fiber& to) { swapcontext(&context_of(from), &context_of(to)); }

#endif

void prepare(Fiber& fiber, void (*body)(), unsigned index) {
  if (!fiber.stack) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    void* block = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) throw std::bad_alloc();
    mprotect(block, page, PROT_NONE);
    fiber.stack = static_cast<char*>(block) + page;
    fiber.stack_bytes = stack_bytes;
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
  fiber.address_sanitizer_state = nullptr;
#endif
  start_at(fiber, fiber.stack + fiber.stack_bytes - 64 - index * 192 % 4096, body);
}

// Under AddressSanitizer: who left last. Arriving elsewhere, the bounds of its stack become known, the host's too.
[[maybe_unused]] static Fiber* leaving = nullptr;

static void arrived([[maybe_unused]] void* state) {
#if defined(__SANITIZE_ADDRESS__)
  const void* stack;
  __sanitizer_finish_switch_fiber(state, &stack, &leaving->stack_bytes);
  leaving->stack = static_cast<char*>(const_cast<void*>(stack));
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  leaving = &from;
  __sanitizer_start_switch_fiber(&from.address_sanitizer_state, to.stack, to.stack_bytes);
#endif
  jump(from, to);
  arrived(from.address_sanitizer_state);
}

void fiber_entered() { arrived(nullptr); }

}  // namespace emu
