#include "async.h"

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "block.h"

namespace emu {
namespace {

// Never destroyed, as in block.cpp.
auto& bulk_copies = *new std::deque<std::function<void()>>;
// Per thread and group, the stores that are under way; the last group is open.
auto& stores = *new std::map<int, std::vector<int>>;

}  // namespace

// ---- bulk copies

void defer_bulk(std::function<void()> copy) { bulk_copies.push_back(std::move(copy)); }

void defer_store(std::function<void()> copy) {
  std::vector<int>& groups = stores[registers.linear];
  if (groups.empty()) groups.push_back(0);
  const size_t group = groups.size() - 1;
  groups[group]++;
  defer_bulk([&groups, group, copy = std::move(copy)] {
    copy();
    groups[group]--;
  });
}

void commit_stores() {
  std::vector<int>& groups = stores[registers.linear];
  groups.resize(std::max<size_t>(groups.size(), 1) + 1);
}

void wait_stores(int groups_left) {
  const std::vector<int>& groups = stores[registers.linear];
  wait_until("cp.async.bulk.wait_group", [&] {
    for (size_t i = 0; i + 1 + size_t(groups_left) < groups.size(); i++)
      if (groups[i] > 0) return false;
    return true;
  });
}

bool run_one_bulk_copy() {
  if (bulk_copies.empty()) return false;
  const auto copy = std::move(bulk_copies.front());
  bulk_copies.pop_front();
  copy();
  return true;
}

// ---- mbarrier

static BarrierState state_of(uint64_t& word) {
  shared_address(&word, 8);
  require_aligned(&word, 8, "mbarrier");
  const auto state = __builtin_bit_cast(BarrierState, word);
  if (state.expected == 0 || state.expected == 0xfffff) fault("an mbarrier that was not initialised");
  return state;
}

static void advance(uint64_t& word, BarrierState state) {
  if (state.pending == 0 && state.bytes == 0) state.phase ^= 1, state.pending = state.expected;
  word = __builtin_bit_cast(uint64_t, state);
}

void start_barrier(uint64_t& word, unsigned arrivals) {
  shared_address(&word, 8);
  require_aligned(&word, 8, "mbarrier");
  if (arrivals < 1 || arrivals >= 0xfffff) fault("mbarrier.init with %u arrivals", arrivals);
  BarrierState state{};
  state.pending = state.expected = arrivals;
  word = __builtin_bit_cast(uint64_t, state);
}

void arrive_at_barrier(uint64_t& word, int64_t announced_bytes) {
  BarrierState state = state_of(word);
  if (state.pending == 0) fault("more arrivals at an mbarrier than the %u it expects", unsigned(state.expected));
  state.bytes += announced_bytes;
  state.pending--;
  advance(word, state);
}

void bytes_came(uint64_t& word, int64_t bytes) {
  BarrierState state = state_of(word);
  state.bytes -= bytes;
  advance(word, state);
}

void wait_for_barrier(uint64_t& word, unsigned parity) {
  wait_until("mbarrier.try_wait", [&] { return state_of(word).phase != (parity & 1); });
}

// ---- tiles

unsigned tile_bytes(const TileMap& map) {
  unsigned elements = 1;
  for (int i = 0; i < map.rank; i++) elements *= map.box[i];
  return elements * unsigned(map.element_bytes);
}

// f(element in global memory or null outside the tensor, element in shared memory, bytes) for each element of a tile
template <class F>
static void for_each_element(const TileMap& map, const int (&at)[3], uint32_t shared, F&& f) {
  uint32_t offset = 0;
  for (unsigned z = 0; z < (map.rank > 2 ? map.box[2] : 1); z++) {
    for (unsigned y = 0; y < (map.rank > 1 ? map.box[1] : 1); y++) {
      const int64_t gz = map.rank > 2 ? at[2] + int64_t(z) : 0, gy = map.rank > 1 ? at[1] + int64_t(y) : 0;
      const bool row_inside =
          gy >= 0 && gz >= 0 && (map.rank < 2 || gy < int64_t(map.size[1])) && (map.rank < 3 || gz < int64_t(map.size[2]));
      for (unsigned x = 0; x < map.box[0]; x++, offset += unsigned(map.element_bytes)) {
        const int64_t gx = at[0] + int64_t(x);
        uint32_t address = shared + offset;
        if (map.swizzled) address ^= (address >> 7 & 7) << 4;
        const bool inside = row_inside && gx >= 0 && gx < int64_t(map.size[0]);
        char* global = nullptr;
        if (inside) global = map.base + gz * int64_t(map.stride[1]) + gy * int64_t(map.stride[0]) + gx * map.element_bytes;
        f(global, static_cast<char*>(shared_pointer(address, size_t(map.element_bytes))), size_t(map.element_bytes));
      }
    }
  }
}

void load_tile(void* to_shared, const TileMap& map, const int (&at)[3], uint64_t& barrier) {
  require_aligned(to_shared, 128, "cp.async.bulk.tensor to shared memory");
  const uint32_t shared = shared_address(to_shared, tile_bytes(map));
  std::memset(to_shared, 0xff, tile_bytes(map));  // as cp.async
  state_of(barrier);
  const std::array<int, 3> place{at[0], at[1], at[2]};
  defer_bulk([=, &barrier] {
    for_each_element(map, {place[0], place[1], place[2]}, shared, [](const char* global, char* local, size_t bytes) {
      if (global)
        std::memcpy(local, global, bytes);
      else
        std::memset(local, 0, bytes);
    });
    bytes_came(barrier, tile_bytes(map));
  });
}

void store_tile(const TileMap& map, const int (&at)[3], const void* from_shared) {
  require_aligned(from_shared, 128, "cp.async.bulk.tensor from shared memory");
  const uint32_t shared = shared_address(from_shared, tile_bytes(map));
  const std::array<int, 3> place{at[0], at[1], at[2]};
  defer_store([=] {
    for_each_element(map, {place[0], place[1], place[2]}, shared, [](char* global, const char* local, size_t bytes) {
      if (global) std::memcpy(global, local, bytes);
    });
  });
}

// ---- wgmma

namespace {

// The sums of 128 threads that products under way add to. The threads' own hold NaN meanwhile.
struct Sums {
  std::array<float*, 128> threads;
  std::vector<float> values;  // 64 x N
  int n, products = 0;
};

struct PendingProduct {
  std::shared_ptr<Sums> sums;
  Product of_thread_0;
  std::vector<uint32_t> a;  // four registers of each thread
};

struct ProductGroups {
  std::deque<std::vector<PendingProduct>> committed;
  std::vector<PendingProduct> open;
  std::map<float*, std::shared_ptr<Sums>> under_way;  // by thread 0's pointer
};
auto& products = *new std::map<int, ProductGroups>;  // by warpgroup

// Element i of a thread's sums, which are N / 2: rows of 16 per warp, as mma.sync has them, in columns of 8.
int row_of_sum(int thread, int i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
int column_of_sum(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

float bfloat16_at(uint32_t address) {
  uint16_t bits;
  std::memcpy(&bits, shared_pointer(address, 2), 2);
  return __uint_as_float(unsigned(bits) << 16);
}

// One element of a matrix that a descriptor names; `major` runs within a row of 128 bytes, `minor` over rows.
float element(uint64_t descriptor, int k, int mn, bool mn_inner) {
  if (descriptor >> 62 != 1) fault("wgmma: the emulator knows the 128-byte swizzle only");
  const auto field = [&](int shift) { return uint32_t(descriptor >> shift & 0x3fff) << 4; };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  uint32_t address = mn_inner
                         ? start + uint32_t(mn / 64) * leading + uint32_t(k / 8) * stride + uint32_t(k % 8) * 128 + uint32_t(mn % 64) * 2
                         : start + uint32_t(mn / 8) * stride + uint32_t(mn % 8) * 128 + uint32_t(k) * 2;
  address ^= (address >> 7 & 7) << 4;
  return bfloat16_at(address);
}

void multiply(PendingProduct& product) {
  Sums& sums = *product.sums;
  const Product& p = product.of_thread_0;
  float a[64][16];
  if (product.a.empty()) {
    for (int row = 0; row < 64; row++)
      for (int k = 0; k < 16; k++) a[row][k] = element(p.a_descriptor, k, row, false);
  } else {
    for (int thread = 0; thread < 128; thread++)
      for (int i = 0; i < 8; i++) {
        const uint32_t bits = product.a[size_t(thread) * 4 + size_t(i) / 2];
        a[row_of_sum(thread, i % 4)][thread % 4 * 2 + i % 2 + i / 4 * 8] = __uint_as_float(i % 2 ? bits & 0xffff0000u : bits << 16);
      }
  }
  if (!p.accumulate) std::fill(sums.values.begin(), sums.values.end(), 0.0f);
  for (int column = 0; column < sums.n; column++) {
    float b[16];
    for (int k = 0; k < 16; k++) b[k] = element(p.b_descriptor, k, column, p.b_transposed);
    for (int row = 0; row < 64; row++) {
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += a[row][k] * b[k];
      sums.values[size_t(row) * size_t(sums.n) + size_t(column)] += sum;
    }
  }
}

// From the threads into the matrix, or back.
template <class F>
void for_each_sum(Sums& sums, F&& f) {
  for (int thread = 0; thread < 128; thread++)
    for (int i = 0; i < sums.n / 2; i++)
      f(sums.threads[size_t(thread)][i], sums.values[size_t(row_of_sum(thread, i) * sums.n + column_of_sum(thread, i))]);
}

}  // namespace

void start_product(int n, Product product) {
  warpgroup_collective(
      product,
      [n](Product* each) {
        ProductGroups& groups = products[registers.linear / 128];
        std::shared_ptr<Sums>& sums = groups.under_way[each[0].sums];
        if (!sums) {
          sums = std::make_shared<Sums>();
          sums->n = n;
          sums->values.resize(size_t(64 * n));
          for (int i = 0; i < 128; i++) sums->threads[size_t(i)] = each[i].sums;
          for_each_sum(*sums, [](float& of_thread, float& value) { value = of_thread, of_thread = __uint_as_float(0xffffffffu); });
        }
        if (sums->n != n) fault("wgmma: the same sums with N %d and %d", sums->n, n);
        sums->products++;
        PendingProduct pending{sums, each[0], {}};
        if (each[0].a)
          for (int i = 0; i < 128; i++) pending.a.insert(pending.a.end(), each[i].a, each[i].a + 4);
        for (int i = 1; i < 128; i++)
          if (each[i].b_descriptor != each[0].b_descriptor || each[i].a_descriptor != each[0].a_descriptor ||
              each[i].accumulate != each[0].accumulate)
            fault("wgmma: thread %d of the warpgroup has other operands than thread 0", i);
        groups.open.push_back(std::move(pending));
      },
      "wgmma.mma_async");
}

void commit_products() {
  int nothing = 0;
  warpgroup_collective(
      nothing,
      [](int*) {
        ProductGroups& groups = products[registers.linear / 128];
        groups.committed.push_back(std::move(groups.open));
        groups.open.clear();
      },
      "wgmma.commit_group");
}

void wait_products(int groups_left) {
  warpgroup_collective(
      groups_left,
      [](int* left) {
        ProductGroups& groups = products[registers.linear / 128];
        for (; int(groups.committed.size()) > left[0]; groups.committed.pop_front()) {
          for (PendingProduct& product : groups.committed.front()) {
            multiply(product);
            if (--product.sums->products > 0) continue;
            for_each_sum(*product.sums, [](float& of_thread, float& value) { of_thread = value; });
            groups.under_way.erase(product.sums->threads[0]);
          }
        }
      },
      "wgmma.wait_group");
}

// ---- for block.cpp

const char* still_under_way() {
  if (!bulk_copies.empty()) return "a bulk copy";
  for (const auto& [group, pending] : products)
    if (!pending.committed.empty() || !pending.open.empty()) return "a wgmma product";
  return nullptr;
}

void forget_async() {
  bulk_copies.clear();
  stores.clear();
  products.clear();
}

}  // namespace emu
