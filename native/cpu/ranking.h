// The order "larger first, ties by position", as one unsigned integer per entry: a total order, whatever the values.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace galago::cpu {

// Rank and position in one number, so that sorting compares without branches.
template <class T>
using Ranked = std::conditional_t<sizeof(T) == 4, uint64_t, unsigned __int128>;

// Ascending order of the result: NaN first, then falling values, then rising positions.
template <class T>
Ranked<T> ranked(T value, int64_t position) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits sign = Bits(1) << (sizeof(T) * 8 - 1);
  const Bits bits = value != value ? std::bit_cast<Bits>(std::numeric_limits<T>::quiet_NaN()) & ~sign
                                   : std::bit_cast<Bits>(value + T(0));  // -0 + 0 = 0: zeros are equal
  const Bits rising = bits & sign ? ~bits : bits | sign;
  return Ranked<T>(Bits(~rising)) << 32 | uint32_t(position);
}

template <class Packed>
int32_t position_of(Packed packed) {
  return int32_t(uint32_t(packed));
}

}  // namespace galago::cpu
