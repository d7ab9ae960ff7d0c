// Stable radix sort of keys with their positions: equal keys stay in order of position.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

namespace galago::cpu {

template <class Key>
struct Keyed {
  Key key;  // unsigned
  int32_t position;
};

// Sorts items[0 .. n) with the help of buffer[0 .. n); returns the one of the two that holds the result. Digits that are the
// same in all keys cost nothing, so row numbers of a table take as many passes as the table has bits.
template <class Key>
Keyed<Key>* radix_sort(Keyed<Key>* items, Keyed<Key>* buffer, int64_t n) {
  constexpr int bits = 11, bins = 1 << bits, digits = (int(sizeof(Key)) * 8 + bits - 1) / bits;
  if (n < 2) return items;
  const auto digit_of = [](Key key, int digit) { return int(key >> (digit * bits)) & (bins - 1); };
  Key varying = 0;
  for (int64_t i = 1; i < n; i++) varying |= items[i].key ^ items[0].key;
  std::array<uint32_t, bins> first;
  for (int digit = 0; digit < digits; digit++) {
    if (digit_of(varying, digit) == 0) continue;
    first.fill(0);
    for (int64_t i = 0; i < n; i++) first[digit_of(items[i].key, digit)]++;
    uint32_t sum = 0;
    for (uint32_t& entry : first) entry = std::exchange(sum, sum + entry);
    for (int64_t i = 0; i < n; i++) buffer[first[digit_of(items[i].key, digit)]++] = items[i];
    std::swap(items, buffer);
  }
  return items;
}

}  // namespace galago::cpu
