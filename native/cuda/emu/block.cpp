#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "async.h"
#include "fibers.h"
#include "signals.h"

namespace emu {

Registers registers;
uint64_t block_serial = 0;

namespace {

constexpr int max_warps = max_block_threads / warp_width;

struct Copy {
  void* to;
  const void* from;
  int bytes, filled;
};

struct ThreadFiber;

struct Thread {
  uint3 index;
  int linear, lane, warp;
  ThreadFiber* fiber;       // null before the thread starts
  const char* waits_for;    // the instruction, null while it can run
  std::source_location at;  // of a barrier
  bool (*ready)(void*);     // of wait_for
  void* ready_function;
  std::vector<Copy> copies;       // pending, oldest first
  std::vector<size_t> committed;  // ends of the groups in `copies`
};

struct ThreadFiber : Fiber {
  unsigned index = 0;
};

// Lanes that wait for each other. A warp can have several such groups, with different masks.
struct Meeting {
  const char* instruction;
  unsigned mask, arrived;
  Leader leader;
};

struct Warp {
  unsigned ready = 0;  // by rank in the order of lanes
  unsigned alive = 0;  // lanes that have not returned
  int meetings = 0;
  std::array<Meeting, warp_width> meeting;
  std::array<void*, warp_width> values;
};

struct Warpgroup {
  const char* instruction;
  int arrived = 0;
  Leader leader;
  std::array<void*, 128> values;
};

struct Barrier {
  const char* instruction;
  std::source_location at;
  int arrived = 0, expected = 0, sum = 0, result = 0;
  std::vector<Thread*> waiting;
};

struct SharedObject {
  size_t begin, end;
  const char* name;
};

constexpr size_t guard_bytes = 64;
constexpr uint16_t guard_word = 0xffa5;                       // NaN as float32 and as bfloat16, and not what uninitialised memory holds
constexpr size_t arena_bytes = max_shared_bytes + 64 * 1024;  // room for the guard zones

// ---- state: one launch runs at a time, so there is one of everything. What has a destructor is never destroyed: a thread of the host may
// still run kernels while the process ends.

const Launch* launch = nullptr;
Outcome& outcome = *new Outcome;
uint64_t switch_count = 0, launch_count = 0;

Fiber host;
auto& fibers = *new std::vector<std::unique_ptr<ThreadFiber>>;
auto& free_fibers = *new std::vector<ThreadFiber*>;

auto& threads = *new std::array<Thread, max_block_threads>;
Thread* current = nullptr;
int thread_count = 0, warp_count = 0, returned = 0;
std::array<Warp, max_warps> warps;
unsigned ready_warps = 0;  // by rank in the order of warps
std::array<Warpgroup, max_warps / 4> warpgroups;
auto& barriers = *new std::array<Barrier, 16>;
auto &pollers = *new std::vector<Thread*>, &yielders = *new std::vector<Thread*>;
int idle_rounds = 0;

uint64_t block_number = 0, block_total = 0;

alignas(1024) char arena[arena_bytes];
auto& shared_objects = *new std::vector<SharedObject>;
size_t arena_end = 0, static_bytes = 0;

// ---- the order of lanes, warps and blocks

Order order_of_environment() {
  const char* text = std::getenv("GALAGO_EMU_ORDER");
  const std::string_view name = text ? text : "";
  return name == "backward" ? Order::backward : name == "shuffled" ? Order::shuffled : Order::forward;
}
Order chosen_order = order_of_environment();
bool order_is_set = false;
std::array<uint8_t, 32> lane_at, rank_of_lane, warp_at, rank_of_warp;
uint64_t block_stride = 1, block_offset = 0;
uint64_t random_state = 0;

unsigned random_below(unsigned bound) {  // splitmix64: the same sequence for the same launches
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return unsigned((z >> 33) % bound);
}

void arrange(std::array<uint8_t, 32>& item_at, std::array<uint8_t, 32>& rank_of, int count) {
  for (int i = 0; i < 32; i++) item_at[i] = uint8_t(chosen_order == Order::backward && i < count ? count - 1 - i : i);
  if (chosen_order == Order::shuffled)
    for (int i = count - 1; i > 0; i--) std::swap(item_at[i], item_at[random_below(i + 1)]);
  for (int i = 0; i < 32; i++) rank_of[item_at[i]] = uint8_t(i);
}

void arrange_launch() {
  if (!order_is_set) chosen_order = order_of_environment();  // tests change it between launches
  random_state = ++launch_count;
  arrange(lane_at, rank_of_lane, std::min(thread_count, 32));
  arrange(warp_at, rank_of_warp, warp_count);
  block_stride = 1, block_offset = 0;
  if (chosen_order == Order::shuffled && block_total > 2) {
    block_offset = random_below(unsigned(std::min<uint64_t>(block_total, 1u << 30)));
    for (int attempt = 0; attempt < 8; attempt++) {
      const uint64_t stride = 1 + random_below(unsigned(std::min<uint64_t>(block_total, 1u << 20)));
      if (std::gcd(stride, block_total) == 1) block_stride = stride;
    }
  }
}

uint64_t block_at(uint64_t number) {
  if (chosen_order == Order::backward) return block_total - 1 - number;
  return (number * block_stride + block_offset) % block_total;
}

// ---- which thread runs next

void make_ready(int warp, unsigned lanes) {
  unsigned ranks = lanes;
  if (chosen_order != Order::forward)
    for (ranks = 0; lanes; lanes &= lanes - 1) ranks |= 1u << rank_of_lane[__builtin_ctz(lanes)];
  warps[warp].ready |= ranks;
  ready_warps |= 1u << rank_of_warp[warp];
}

void make_ready(const Thread& thread) { make_ready(thread.warp, 1u << thread.lane); }

std::string place(const std::source_location& at) {
  const std::string_view file = at.file_name();
  return std::string(file.substr(file.find_last_of('/') + 1)) + ":" + std::to_string(at.line());
}

// What the threads wait for, as "96 for __syncthreads (layer_norm.cu:40), 32 for __shfl_xor_sync"
std::string waiting_threads() {
  std::vector<std::pair<std::string, int>> groups;
  for (int i = 0; i < thread_count; i++) {
    if (!threads[i].waits_for) continue;
    std::string what = threads[i].waits_for;
    if (threads[i].at.line()) what += " (" + place(threads[i].at) + ")";
    auto group = std::find_if(groups.begin(), groups.end(), [&](auto& g) { return g.first == what; });
    if (group == groups.end()) group = groups.insert(group, {what, 0});
    group->second++;
  }
  std::string text;
  for (auto& [what, count] : groups) text += (text.empty() ? "" : ", ") + std::to_string(count) + " for " + what;
  return text;
}

// Nothing is ready: threads whose condition came true, then those that stepped aside.
void wake_pollers() {
  std::erase_if(pollers, [](Thread* thread) {
    if (!thread->ready(thread->ready_function)) return false;
    make_ready(*thread);
    return true;
  });
  if (ready_warps) return void(idle_rounds = 0);
  if (run_one_bulk_copy()) return wake_pollers();
  if (yielders.empty()) fault("deadlock: no thread can continue; waiting: %s", waiting_threads().c_str());
  if (++idle_rounds > 1'000'000) fault("%zu threads poll memory that no other thread writes", yielders.size());
  for (Thread* thread : yielders) make_ready(*thread);
  yielders.clear();
}

Thread& take_next() {
  if (!ready_warps) wake_pollers();
  // The warp that ran goes on while it can; shuffled, now and then any warp and lane.
  int rank = current ? rank_of_warp[current->warp] : 0, from = 0;
  if (chosen_order == Order::shuffled && random_below(8) == 0) rank = int(random_below(32)), from = int(random_below(32));
  if (!(ready_warps >> rank & 1)) rank = __builtin_ctz(ready_warps);
  Warp& warp = warps[warp_at[rank]];
  if (!(warp.ready >> from)) from = 0;
  const int lane_rank = from + __builtin_ctz(warp.ready >> from);
  warp.ready &= ~(1u << lane_rank);
  if (!warp.ready) ready_warps &= ~(1u << rank);
  return threads[warp_at[rank] * warp_width + lane_at[lane_rank]];
}

void become(Thread& thread) {
  current = &thread;
  registers.thread = thread.index;
  registers.linear = thread.linear;
  registers.lane = thread.lane;
}

void fiber_main();

ThreadFiber* take_fiber() {
  if (free_fibers.empty()) {
    fibers.push_back(std::make_unique<ThreadFiber>());
    fibers.back()->index = unsigned(fibers.size());
    prepare(*fibers.back(), fiber_main, fibers.back()->index);
    free_fibers.push_back(fibers.back().get());
  }
  ThreadFiber* fiber = free_fibers.back();
  free_fibers.pop_back();
  return fiber;
}

// Leaves the running thread, which waits for `instruction`, for the next; returns when its turn comes again.
void suspend(const char* instruction, const std::source_location& at = {}) {
  Thread* self = current;
  self->waits_for = instruction;
  self->at = at;
  Thread& next = take_next();
  if (&next != self) {
    if (!next.fiber) next.fiber = take_fiber();
    become(next);
    switch_count++;
    switch_fiber(*self->fiber, *next.fiber);
  }
  self->waits_for = nullptr;
}

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

// ---- a block from start to end

uint8_t guard_byte(size_t at) { return uint8_t(at % 2 ? guard_word >> 8 : guard_word & 0xff); }

void fill_guard(size_t begin, size_t end) {
  for (size_t at = begin; at < end; at++) arena[at] = char(guard_byte(at));
}

bool guard_is_whole(size_t begin, size_t end) {
  for (size_t at = begin; at < end; at++)
    if (uint8_t(arena[at]) != guard_byte(at)) return false;
  return true;
}

void start_block() {
  forget_async();
  block_serial++;
  const uint64_t at = block_at(block_number);
  registers.block = {unsigned(at % launch->grid.x), unsigned(at / launch->grid.x % launch->grid.y),
                     unsigned(at / launch->grid.x / launch->grid.y)};
  returned = 0;
  idle_rounds = 0;
  for (int i = 0; i < thread_count; i++) threads[i].fiber = nullptr;
  for (int w = 0; w < warp_count; w++) {
    const int lanes = std::min(warp_width, thread_count - w * warp_width);
    warps[w].alive = ~0u >> (warp_width - lanes);
    warps[w].ready = 0;
    for (int lane = 0; lane < lanes; lane++) warps[w].ready |= 1u << rank_of_lane[lane];
  }
  ready_warps = ~0u >> (max_warps - warp_count);

  shared_objects.clear();
  static_bytes = 0;
  arena_end = 0;
  if (launch->shared > 0) {
    fill_guard(0, 128);
    std::memset(arena + 128, 0xff, launch->shared);
    shared_objects.push_back({128, 128 + launch->shared, "dynamic shared memory"});
    arena_end = 128 + launch->shared;
    fill_guard(arena_end, arena_end + guard_bytes);
  }
}

// Objects lie in the order of the list, with a guard zone before each and after the last.
void check_guards() {
  size_t begin = 0;
  for (const SharedObject& object : shared_objects) {
    if (!guard_is_whole(begin, object.begin)) fault("shared memory before %s was overwritten", object.name);
    const size_t end = object.end + guard_bytes;
    if (!guard_is_whole(object.end, end))
      fault("shared memory after %s (%zu bytes) was overwritten", object.name, object.end - object.begin);
    begin = end;
  }
}

void thread_returns() {
  Warp& warp = warps[current->warp];
  warp.alive &= ~(1u << current->lane);
  returned++;
  for (int i = 0; i < warp.meetings; i++)
    if (warp.meeting[i].mask >> current->lane & 1)
      fault("the thread returns while lanes wait for it in %s with mask 0x%08x", warp.meeting[i].instruction, warp.meeting[i].mask);
  if (barriers[0].arrived > 0)
    fault("the thread returns while %d threads wait for it at %s (%s)", barriers[0].arrived, barriers[0].instruction,
          place(barriers[0].at).c_str());
  current->copies.clear();
  current->committed.clear();
}

// What every fiber runs: threads one after the other, as plain calls, until one of them has to wait in the middle.
void fiber_main() {
  fiber_entered();
  for (;;) {
    launch->call();
    thread_returns();
    ThreadFiber* self = current->fiber;
    if (returned == thread_count) {
      check_guards();
      if (const char* what = still_under_way()) fault("the block ends while %s is under way", what);
      if (++block_number == block_total) {
        free_fibers.push_back(self);
        switch_fiber(*self, host);
        continue;  // the next launch, or a later thread of it, enters here
      }
      start_block();
    }
    Thread& next = take_next();
    become(next);
    if (!next.fiber) {
      next.fiber = self;
    } else {
      free_fibers.push_back(self);
      switch_count++;
      switch_fiber(*self, *next.fiber);
    }
  }
}

// After a fault: every stack starts afresh, whatever it held.
void abandon_block() {
  free_fibers.clear();
  for (auto& fiber : fibers) {
    prepare(*fiber, fiber_main, fiber->index);
    free_fibers.push_back(fiber.get());
  }
  for (Thread& thread : threads) thread.waits_for = nullptr, thread.copies.clear(), thread.committed.clear();
  for (Warp& warp : warps) warp.meetings = 0;
  for (Warpgroup& group : warpgroups) group.arrived = 0;
  for (Barrier& barrier : barriers) barrier.arrived = barrier.sum = 0, barrier.waiting.clear();
  pollers.clear();
  yielders.clear();
  forget_async();
}

void set_up_threads() {
  const dim3 size = launch->block;
  for (int i = 0; i < thread_count; i++) {
    Thread& thread = threads[i];
    thread.index = {unsigned(i) % size.x, unsigned(i) / size.x % size.y, unsigned(i) / size.x / size.y};
    thread.linear = i;
    thread.lane = i % warp_width;
    thread.warp = i / warp_width;
    thread.waits_for = nullptr;
    thread.at = {};
  }
}

void fault_of_signal(int signal, const void* address) {
  if (signal == SIGFPE) fault("an integer is divided by zero");
  const char* at = static_cast<const char*>(address);
  const ThreadFiber* fiber = current->fiber;
  if (at < fiber->stack && at >= fiber->stack - 4096) fault(Fault::illegal_address, "the stack of the thread overflows");
  if (!address) fault(Fault::illegal_address, "access to a null pointer, or to a misaligned address");
  fault(Fault::illegal_address, "access to %p, which is no memory", address);
}

}  // namespace

void set_order(Order order) {
  chosen_order = order;
  order_is_set = true;
}
Order order() { return chosen_order; }
uint64_t switches() { return switch_count; }

Outcome run_launch(const Launch& asked) {
  launch = &asked;
  thread_count = int(asked.block.x * asked.block.y * asked.block.z);
  warp_count = (thread_count + warp_width - 1) / warp_width;
  block_number = 0;
  block_total = uint64_t(asked.grid.x) * asked.grid.y * asked.grid.z;
  registers.block_size = asked.block;
  registers.grid_size = asked.grid;
  outcome = {};
  arrange_launch();
  set_up_threads();
  current = nullptr;
  start_block();
  Thread& first = take_next();
  first.fiber = take_fiber();
  become(first);
  on_signal(fault_of_signal);
  switch_fiber(host, *first.fiber);
  on_signal(nullptr);
  current = nullptr;
  if (outcome.fault != Fault::none) abandon_block();
  launch = nullptr;
  return outcome;
}

[[noreturn]] static void end_launch(Fault kind, const char* format, va_list arguments) {
  char text[1024];
  std::vsnprintf(text, sizeof text, format, arguments);
  if (!launch) throw std::logic_error(std::string("device code called outside a kernel: ") + text);
  const uint3 b = registers.block, t = registers.thread;
  char where[128];
  std::snprintf(where, sizeof where, ", block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y, t.z);
  outcome = {kind, std::string(text) + "; in " + symbol_name(launch->kernel) + where};
  Fiber abandoned;
  switch_fiber(abandoned, host);
  std::abort();  // nothing comes back here
}

void fault(Fault kind, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  end_launch(kind, format, arguments);
}

void fault(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  end_launch(Fault::launch_failure, format, arguments);
}

// ---- meetings

int barrier(const char* instruction, std::source_location where, int id, int count, int value) {
  if (id < 0 || id > 15) fault("%s: barrier %d does not exist", instruction, id);
  Barrier& barrier = barriers[id];
  const int expected = count ? count : thread_count;
  if (expected > thread_count) fault("%s expects %d threads in a block of %d", instruction, expected, thread_count);
  if (!count && returned > 0) fault("%d threads have returned without passing %s (%s)", returned, instruction, place(where).c_str());
  if (barrier.arrived == 0) {
    barrier.instruction = instruction, barrier.at = where, barrier.expected = expected;
  } else if (barrier.expected != expected || !same(barrier.instruction, instruction) ||
             (!count && (barrier.at.line() != where.line() || barrier.at.column() != where.column()))) {
    fault("the thread comes to %s (%s) while %d threads wait at %s (%s)", instruction, place(where).c_str(), barrier.arrived,
          barrier.instruction, place(barrier.at).c_str());
  }
  barrier.sum += value;
  if (++barrier.arrived < expected) {
    if (count) barrier.waiting.push_back(current);
    suspend(instruction, where);
    return barrier.result;
  }
  barrier.result = barrier.sum;
  barrier.sum = barrier.arrived = 0;
  idle_rounds = 0;
  if (count) {
    for (const Thread* thread : barrier.waiting) make_ready(*thread);
    barrier.waiting.clear();
    make_ready(*current);
  } else {
    for (int warp = 0; warp < warp_count; warp++) make_ready(warp, warps[warp].alive);
  }
  // The last to arrive does not run ahead of the others: any of them may be next.
  suspend(instruction, where);
  return barrier.result;
}

void meet_in_warp(const char* instruction, unsigned mask, void* value, Leader leader, void* function) {
  Warp& warp = warps[current->warp];
  const unsigned self = 1u << current->lane;
  if (!(mask & self)) fault("%s: lane %d is missing from its own mask 0x%08x", instruction, current->lane, mask);
  if (mask & ~warp.alive)
    fault("%s: mask 0x%08x names lanes 0x%08x, which have returned or do not exist", instruction, mask, mask & ~warp.alive);

  int at = 0;
  for (; at < warp.meetings && warp.meeting[at].mask != mask; at++) {
    // Other lanes may wait with another mask. But where they wait for this one, and this one for them, nobody will ever come.
    const Meeting& other = warp.meeting[at];
    if ((other.mask & self) && (other.arrived & mask))
      fault("%s: mask 0x%08x of lane %d meets mask 0x%08x of other lanes in %s", instruction, mask, current->lane, other.mask,
            other.instruction);
  }
  Meeting& meeting = warp.meeting[at];
  if (at == warp.meetings) {
    meeting = {instruction, mask, 0, leader};
    warp.meetings++;
  } else if (meeting.leader != leader || !same(meeting.instruction, instruction)) {
    fault("%s: other lanes of mask 0x%08x are in %s, or exchange another type", instruction, mask, meeting.instruction);
  }
  meeting.arrived |= self;
  warp.values[current->lane] = value;
  if (meeting.arrived != mask) { return suspend(instruction); }
  meeting = warp.meeting[--warp.meetings];
  if (leader) leader(warp.values.data(), mask, function);
  make_ready(current->warp, mask & ~self);
  idle_rounds = 0;
}

void meet_in_warpgroup(const char* instruction, void* value, Leader leader, void* function) {
  Warpgroup& group = warpgroups[current->warp / 4];
  const int first = current->linear / 128 * 128;
  if (first + 128 > thread_count) fault("%s: the block ends inside the warpgroup", instruction);
  if (group.arrived == 0)
    group.instruction = instruction, group.leader = leader;
  else if (group.leader != leader || !same(group.instruction, instruction))
    fault("%s: other threads of the warpgroup are in %s", instruction, group.instruction);
  group.values[current->linear - first] = value;
  if (++group.arrived < 128) { return suspend(instruction); }
  group.arrived = 0;
  leader(group.values.data(), 0, function);
  for (int i = 0; i < 128; i++)
    if (first + i != current->linear) make_ready(threads[first + i]);
  idle_rounds = 0;
}

void wait_for(const char* instruction, bool (*ready)(void*), void* function) {
  current->ready = ready;
  current->ready_function = function;
  pollers.push_back(current);
  suspend(instruction);
}

void yield() {
  yielders.push_back(current);
  suspend("yield");
}

// ---- shared memory

void allocate_shared(SharedSite& site, size_t bytes, size_t alignment, const char* name) {
  static_bytes += bytes;
  if (static_bytes > max_static_shared_bytes)
    fault("%s: %zu bytes of static shared memory, more than %zu", name, static_bytes, max_static_shared_bytes);
  if (static_bytes + launch->shared > max_static_shared_bytes && launch->shared <= 32 * 1024)  // see launch.cuh
    fault("%s: %zu bytes of shared memory, more than a launch may use unasked", name, static_bytes + launch->shared);
  if (static_bytes + launch->shared > max_shared_bytes)
    fault("%s: %zu bytes of shared memory, more than %zu", name, static_bytes + launch->shared, max_shared_bytes);
  // No better aligned than its type asks for: what needs more says so.
  size_t begin = arena_end + guard_bytes;
  begin = (begin + 2 * alignment - 1) / (2 * alignment) * (2 * alignment) + alignment;
  if (begin + bytes + guard_bytes > arena_bytes) fault("%s: too many objects in shared memory", name);
  fill_guard(arena_end, begin);
  std::memset(arena + begin, 0xff, bytes);
  arena_end = begin + bytes;
  fill_guard(arena_end, arena_end + guard_bytes);
  shared_objects.push_back({begin, arena_end, name});
  site = {block_serial, arena + begin};
}

void* dynamic_shared() {
  if (launch->shared == 0) fault("dynamic shared memory is used, but the launch asks for none");
  return arena + 128;
}

static bool within_an_object(size_t begin, size_t bytes) {
  return std::any_of(shared_objects.begin(), shared_objects.end(),
                     [&](const SharedObject& object) { return begin >= object.begin && begin + bytes <= object.end; });
}

uint32_t shared_address(const void* pointer, size_t bytes) {
  const size_t at = size_t(static_cast<const char*>(pointer) - arena);
  if (at >= arena_bytes || !within_an_object(at, bytes)) fault("%p, %zu bytes: not within an object in shared memory", pointer, bytes);
  return uint32_t(at);
}

void* shared_pointer(uint32_t address, size_t bytes) {
  if (!within_an_object(address, bytes)) fault("shared address 0x%x, %zu bytes: not within an object in shared memory", address, bytes);
  return arena + address;
}

// ---- cp.async

void defer_copy(void* to_shared, const void* from, int bytes, int filled) {
  if (bytes != 4 && bytes != 8 && bytes != 16) fault("cp.async of %d bytes: expected 4, 8 or 16", bytes);
  if (filled < 0 || filled > bytes) fault("cp.async of %d bytes reads %d", bytes, filled);
  shared_address(to_shared, size_t(bytes));
  require_aligned(to_shared, size_t(bytes), "cp.async to shared memory");
  require_aligned(from, size_t(bytes), "cp.async from global memory");
  std::memset(to_shared, 0xff, size_t(bytes));  // a device may write from now on: whoever still reads here finds NaN
  current->copies.push_back({to_shared, from, bytes, filled});
}

void commit_copies() { current->committed.push_back(current->copies.size()); }

void wait_copies(int groups_left) {
  std::vector<Copy>& copies = current->copies;
  std::vector<size_t>& committed = current->committed;
  const size_t done_groups = committed.size() > size_t(groups_left) ? committed.size() - size_t(groups_left) : 0;
  const size_t done = groups_left == 0 ? copies.size() : done_groups ? committed[done_groups - 1] : 0;
  for (size_t i = 0; i < done; i++) {
    std::memset(copies[i].to, 0, size_t(copies[i].bytes));
    std::memcpy(copies[i].to, copies[i].from, size_t(copies[i].filled));
  }
  copies.erase(copies.begin(), copies.begin() + std::ptrdiff_t(done));
  committed.erase(committed.begin(), committed.begin() + std::ptrdiff_t(done_groups));
  for (size_t& end : committed) end -= done;
}

}  // namespace emu
