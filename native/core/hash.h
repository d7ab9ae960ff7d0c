// Hashing of 64-bit keys, for CPU and CUDA alike: where a key of the memory bank may live, and its fingerprint there.
#pragma once
#include <cstdint>

namespace galago {

// One step of splitmix64: a bijection in which every bit of the input reaches every bit of the result.
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

constexpr uint64_t hash_key(int64_t key, int64_t seed) { return mix64(uint64_t(key) ^ mix64(uint64_t(seed))); }

// The two buckets of a hash among `buckets` (below 2^32): its halves, by multiply-high. They may be the same one.
constexpr int64_t first_bucket(uint64_t hash, int64_t buckets) { return int64_t((hash >> 32) * uint64_t(buckets) >> 32); }
constexpr int64_t second_bucket(uint64_t hash, int64_t buckets) { return int64_t((hash & 0xffffffffu) * uint64_t(buckets) >> 32); }

// 1 .. 255, from all bits of the hash, so that keys that share a bucket differ in it; 0 marks an empty slot.
constexpr uint8_t fingerprint_of(uint64_t hash) { return uint8_t(1 + ((hash * 0xd6e8feb86659fd93u >> 56) * 255 >> 8)); }

// The bytes of `word` that equal `byte`: bit 7 of each of them, other bits 0.
constexpr uint64_t equal_bytes(uint64_t word, uint8_t byte) {
  const uint64_t low = 0x7f7f7f7f7f7f7f7fu, difference = word ^ byte * 0x0101010101010101u;
  return ~(((difference & low) + low) | difference | low);
}

// The first number of the published sequence of splitmix64 for seed 0.
static_assert(mix64(0) == 0xe220a8397b1dcdafu);
static_assert(hash_key(0, 0) != hash_key(-1, 0) && hash_key(0, 0) != hash_key(0, 1));
static_assert(equal_bytes(0x00ff017f80810001u, 0) == 0x8000000000008000u && equal_bytes(0x00ff017f80810001u, 0x80) == 0x0000000080000000u);
static_assert(equal_bytes(0x0101010101010101u, 1) == 0x8080808080808080u && equal_bytes(0xff7f80ff00017ffeu, 0xff) == 0x8000008000000000u);

namespace hash_proof {

// Of `keys` consecutive keys: most in one of 64 buckets by either half, and most with one fingerprint among those of bucket 0.
constexpr int fullest_bucket(int keys, bool second) {
  int count[64] = {}, most = 0;
  for (int key = 0; key < keys; key++) {
    const uint64_t hash = hash_key(key, 1);
    const int64_t bucket = second ? second_bucket(hash, 64) : first_bucket(hash, 64);
    if (++count[bucket] > most) most = count[bucket];
  }
  return most;
}
constexpr int commonest_fingerprint(int keys) {
  int count[256] = {}, most = 0;
  for (int key = 0; key < keys; key++) {
    const uint64_t hash = hash_key(key, 1);
    if (first_bucket(hash, 4) != 0 || second_bucket(hash, 4) != 0) continue;
    if (++count[fingerprint_of(hash)] > most) most = count[fingerprint_of(hash)];
  }
  return count[0] ? keys : most;
}
// 64 on average; 256 / 255 on average
static_assert(fullest_bucket(4096, false) < 96 && fullest_bucket(4096, true) < 96);
static_assert(commonest_fingerprint(4096) < 8);

}  // namespace hash_proof
}  // namespace galago
