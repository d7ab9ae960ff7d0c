// Distinct keys in ascending order, and where each key went.
#include "../kernels.h"
#include "radix_sort.h"
#include "scratch.h"

namespace galago::cpu {

template <class Key, class Bits>
static void unique_of(const Tensor& keys, Tensor& unique, Tensor& inverse, Tensor& count) {
  constexpr Bits sign = Bits(1) << (sizeof(Key) * 8 - 1);  // flipped, signed keys sort as unsigned ones
  const int64_t n = keys.size();
  const Key* key = keys.data<Key>();
  Key* to = unique.data<Key>();
  int32_t* slot = inverse.data<int32_t>();
  auto* items = scratch<Keyed<Bits>>(ScratchSlot::kernel, 2 * n);
  for (int64_t i = 0; i < n; i++) items[i] = {Bits(key[i]) ^ sign, int32_t(i)};
  const Keyed<Bits>* sorted = radix_sort(items, items + n, n);
  int32_t distinct = 0;
  for (int64_t i = 0; i < n; i++) {
    if (i == 0 || sorted[i].key != sorted[i - 1].key) to[distinct++] = Key(sorted[i].key ^ sign);
    slot[sorted[i].position] = distinct - 1;
  }
  for (int64_t i = distinct; i < n; i++) to[i] = Key(-1);
  *count.data<int32_t>() = distinct;
}

void unique(const Tensor& keys, Tensor& unique, Tensor& inverse, Tensor& count) {
  if (keys.dtype == DType::int64) return unique_of<int64_t, uint64_t>(keys, unique, inverse, count);
  unique_of<int32_t, uint32_t>(keys, unique, inverse, count);
}

}  // namespace galago::cpu
