// What runs beside the threads of a block: bulk copies and wgmma. It happens as late as it may: when somebody has to wait for it.
#pragma once
#include <cstdint>
#include <functional>

#include "types.h"

namespace emu {

// ---- bulk copies: they happen, one after the other, when no thread can continue

void defer_bulk(std::function<void()> copy);
// Copies out of shared memory belong to their thread's open group; a group ends with commit_stores.
void defer_store(std::function<void()> copy);
void commit_stores();
void wait_stores(int groups_left);  // until at most so many committed groups of this thread are pending

// ---- mbarrier, in the 64 bits that the device uses for it

struct BarrierState {
  uint64_t pending : 20, expected : 20, phase : 1;
  int64_t bytes : 23;  // of transactions that are still to come; negative when they came before they were announced
};
static_assert(sizeof(BarrierState) == 8);

void start_barrier(uint64_t& word, unsigned arrivals);
void arrive_at_barrier(uint64_t& word, int64_t announced_bytes);
void bytes_came(uint64_t& word, int64_t bytes);
void wait_for_barrier(uint64_t& word, unsigned parity);

// ---- tensor maps and tiles, as cuTensorMapEncodeTiled describes them

struct TileMap {
  char* base;
  int rank, element_bytes;
  bool swizzled;       // 128 bytes
  uint64_t size[3];    // elements; the innermost dimension first
  uint64_t stride[2];  // bytes between neighbours of dimensions 1 and 2
  unsigned box[3];     // elements of a tile
};
unsigned tile_bytes(const TileMap& map);
void load_tile(void* to_shared, const TileMap& map, const int (&at)[3], uint64_t& barrier);
void store_tile(const TileMap& map, const int (&at)[3], const void* from_shared);

// ---- wgmma: sums (64 x N) += a (64 x 16) b (16 x N) of bfloat16, by 128 threads

struct Product {
  float* sums;        // N / 2 of the thread: NaN until the product has been waited for
  const uint32_t* a;  // four registers of the thread, or null: then a_descriptor
  uint64_t a_descriptor, b_descriptor;
  bool b_transposed;  // b lies with N innermost
  bool accumulate;    // otherwise the sums start at zero
};
void start_product(int n, Product product);
void commit_products();
void wait_products(int groups_left);

// ---- for block.cpp
bool run_one_bulk_copy();       // false: there is none
const char* still_under_way();  // what the block leaves behind, or null
void forget_async();

}  // namespace emu
