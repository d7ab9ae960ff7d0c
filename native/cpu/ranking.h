// The order "larger first, ties by position" for sorting: a total order, whatever the values.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace galago::cpu {

template <class T>
struct Ranked {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Bits rank;  // falls as the value rises; NaN comes first
  int32_t position;
  Ranked() = default;
  Ranked(T value, int64_t position) : position(int32_t(position)) {
    constexpr Bits sign = Bits(1) << (sizeof(T) * 8 - 1);
    const Bits bits = value != value ? std::bit_cast<Bits>(std::numeric_limits<T>::quiet_NaN()) & ~sign
                                     : std::bit_cast<Bits>(value + T(0));  // -0 + 0 = 0: zeros are equal
    rank = ~(bits & sign ? ~bits : bits | sign);
  }
  bool operator<(const Ranked& other) const { return rank != other.rank ? rank < other.rank : position < other.position; }
};

}  // namespace galago::cpu
