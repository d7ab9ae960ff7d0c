// What a table of vectors may hold: rows that are finite and not all zero. Decided by bits, so that every backend decides alike.
#pragma once
#include <bit>
#include <cstdint>
#include <type_traits>

#include "isa.h"

namespace galago::cpu {

// Bits: uint16_t for bfloat16, uint32_t for float32, uint64_t for float64.
template <class Bits>
GALAGO_INLINE bool usable_row(const Bits* row, int64_t D) {
  constexpr Bits magnitude = Bits(Bits(~Bits(0)) >> 1);
  constexpr Bits infinity = sizeof(Bits) == 2 ? Bits(0x7f80) : sizeof(Bits) == 4 ? Bits(0x7f800000u) : Bits(0x7ff0000000000000u);
  Bits any = 0, bad = 0;
  for (int64_t d = 0; d < D; d++) {
    const Bits value = row[d] & magnitude;
    any |= value;
    bad |= Bits(value >= infinity);
  }
  return any != 0 && bad == 0;
}

}  // namespace galago::cpu
