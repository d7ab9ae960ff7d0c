/*
Rows by 64-bit key, in buckets of 16 slots: the same bytes as native/cpu/memory_bank.cpp after any sequence of calls. No float is computed.

Gather: a thread looks one key up (both buckets' fingerprints at once, 2 x 16 bytes, then nearly always one key), then its warp copies
the 32 rows as one contiguous piece of the output, 8 words of 16 bytes in flight per lane.
Stage: stable sort by key; the warp at the head of a run of equal keys chooses the newest usable row; a scan closes the gaps.
Upsert, without compare-and-swap and without spinning: (1) keys are looked up in the table as it stood; (2) stable sort by (bucket, known
before new), which leaves the ascending keys in order; (3) the warp at the head of a bucket's entries owns the bucket: lane s holds slot s,
entries are applied one after the other, and at the end the winners' rows are copied. Hot buckets are loops of one warp.
*/
#include "../core/hash.h"
#include "sort.cuh"
#include "words.cuh"

namespace galago::cuda {

namespace {

constexpr int bank_width = 16;  // slots of a bucket
constexpr int32_t highest = 0x7fffffff;

enum Counter { inserted, updated, evicted, dropped, refused, superseded, counters_size };

// Where keys lie.
struct Index {
  const uint8_t* fingerprints;
  const int64_t* keys;
  int64_t buckets, seed;

  struct Words {
    uint64_t half[2];
  };
  __device__ Words words_of(int64_t bucket) const {
    const auto* words = reinterpret_cast<const uint64_t*>(fingerprints + bucket * bank_width);
    return {{words[0], words[1]}};
  }

  __device__ int64_t find_in(int64_t bucket, const Words& words, uint8_t fingerprint, int64_t key) const {
    for (int half = 0; half < 2; half++)
      for (uint64_t equal = equal_bytes(words.half[half], fingerprint); equal; equal &= equal - 1) {
        const int64_t slot = bucket * bank_width + 8 * half + ((__ffsll((long long)equal) - 1) >> 3);
        if (keys[slot] == key) return slot;
      }
    return -1;
  }

  // The slot of `key`, or -1.
  __device__ int64_t find(int64_t key, uint64_t hash) const {
    const int64_t first = first_bucket(hash, buckets), second = second_bucket(hash, buckets);
    const Words in_first = words_of(first), in_second = words_of(second);
    const uint8_t fingerprint = fingerprint_of(hash);
    const int64_t slot = find_in(first, in_first, fingerprint, key);
    return slot >= 0 ? slot : find_in(second, in_second, fingerprint, key);
  }

  __device__ int empty_slots(int64_t bucket) const {
    const Words words = words_of(bucket);
    return __popcll(equal_bytes(words.half[0], 0)) + __popcll(equal_bytes(words.half[1], 0));
  }

  // Where a key that is not there would go: the emptier of its buckets, the first at a tie.
  __device__ int64_t bucket_for(uint64_t hash) const {
    const int64_t first = first_bucket(hash, buckets), second = second_bucket(hash, buckets);
    return empty_slots(second) > empty_slots(first) ? second : first;
  }
};

// The rows of this step, by key; keys may be null.
struct Staged {
  const int64_t* keys;
  const int32_t *source, *counts;

  __device__ int32_t find(int64_t key) const {
    const int64_t found = keys ? find_sorted(keys, int64_t(counts[0]), key) : -1;
    return found < 0 ? -1 : source[found];
  }
};

// Steps since the last write; -1 where that is more than max_age.
__device__ int32_t age_of(int64_t now, int32_t stamp, int64_t max_age) {
  const int64_t age = now > stamp ? now - stamp : 0;
  return max_age >= 0 && age > max_age ? -1 : age > highest ? highest : int32_t(age);
}

}  // namespace

static __global__ void memory_bank_lookup_kernel(Index index, const int32_t* stamps, const int64_t* wanted, int32_t* slots, int32_t* ages,
                                                 int64_t n, int64_t now, int64_t max_age) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t slot = index.find(wanted[i], hash_key(wanted[i], index.seed));
    const int32_t age = slot < 0 ? -1 : age_of(now, stamps[slot], max_age);
    slots[i] = age < 0 ? -1 : int32_t(slot);
    ages[i] = age;
  }
}

template <class Word>
__global__ void memory_bank_gather_kernel(Index index, const int32_t* stamps, const Word* rows, const int64_t* wanted, Staged staged,
                                          const Word* staged_rows, Word* out, int32_t* ages, int32_t* joined, int64_t n, int64_t words,
                                          int64_t now, int64_t max_age) {
  const int64_t warps = int64_t(gridDim.x) * blockDim.x / warp_size, groups = (n + warp_size - 1) / warp_size;
  for (int64_t group = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size; group < groups; group += warps) {
    const int64_t first = group * warp_size, i = first + lane();
    const Word* from = nullptr;
    if (i < n) {
      const int64_t key = wanted[i];
      const int32_t position = staged.find(key);
      const int64_t slot = position >= 0 ? -1 : index.find(key, hash_key(key, index.seed));
      const int32_t age = position >= 0 ? 0 : slot < 0 ? -1 : age_of(now, stamps[slot], max_age);
      if (position >= 0)
        from = staged_rows + position * words;
      else if (age >= 0)
        from = rows + slot * words;
      ages[i] = age;
      if (joined) joined[i] = position;
    }
    copy_rows_of_warp(from, out + first * words, int(n - first < warp_size ? n - first : warp_size), words);
  }
}

template <class Word>
__global__ void memory_bank_join_kernel(const Word* rows, const int32_t* row_ages, const int64_t* wanted, Staged staged,
                                        const Word* staged_rows, Word* out, int32_t* ages, int32_t* joined, int64_t n, int64_t words) {
  const int64_t warps = int64_t(gridDim.x) * blockDim.x / warp_size, groups = (n + warp_size - 1) / warp_size;
  for (int64_t group = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size; group < groups; group += warps) {
    const int64_t first = group * warp_size, i = first + lane();
    const Word* from = nullptr;
    if (i < n) {
      const int32_t position = staged.find(wanted[i]);
      from = position >= 0 ? staged_rows + position * words : rows + i * words;
      ages[i] = position >= 0 ? 0 : row_ages[i];
      joined[i] = position;
    }
    copy_rows_of_warp(from, out + first * words, int(n - first < warp_size ? n - first : warp_size), words);
  }
}

// ---- stage

// A warp per row: keys to sort by, and usable[i]; counts[1] += rows that are not (integers: in any order).
template <class Bits>
__global__ void memory_bank_check_kernel(const int64_t* keys, const Bits* rows, uint64_t* sort_keys, int32_t* positions, uint8_t* usable,
                                         int32_t* counts, int64_t n, int64_t D) {
  const int64_t warps = int64_t(gridDim.x) * blockDim.x / warp_size;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size; i < n; i += warps) {
    const bool good = usable_row_of_warp(rows + i * D, D);
    if (lane() != 0) continue;
    sort_keys[i] = flip_sign(uint64_t(keys[i]));
    positions[i] = int32_t(i);
    usable[i] = good;
    if (!good) atomicAdd(&counts[1], 1);
  }
}

// The order of rows with the same key. `position` -1: no row.
struct Version {
  int32_t step;
  int64_t sample;
  int32_t position;

  __device__ bool newer_than(const Version& other) const {
    if (position < 0 || other.position < 0) return position >= 0;
    if (step != other.step) return step > other.step;
    return sample != other.sample ? sample > other.sample : position > other.position;
  }
};

// winner[i] = the newest usable row of the run that begins at entry i, -1 where none does or all are refused; place[i] = 1 where there is
// one.
static __global__ void memory_bank_newest_kernel(const uint64_t* keys, const int32_t* positions, const uint8_t* usable,
                                                 const int32_t* steps, const int64_t* samples, int32_t* winner, int32_t* place, int64_t n) {
  const int64_t warps = int64_t(gridDim.x) * blockDim.x / warp_size;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size; i < n; i += warps) {
    Version newest{0, 0, -1};
    if (i == 0 || keys[i] != keys[i - 1]) {
      bool inside = true;
      for (int64_t at = i + lane(); __any_sync(full_mask, inside = inside && at < n && keys[at] == keys[i]); at += warp_size) {
        if (!inside || !usable[positions[at]]) continue;
        const int32_t position = positions[at];
        const Version found{steps ? steps[position] : 0, samples ? samples[position] : 0, position};
        if (found.newer_than(newest)) newest = found;
      }
      for (int offset = warp_size / 2; offset > 0; offset /= 2) {
        const Version other{__shfl_xor_sync(full_mask, newest.step, offset),
                            int64_t(__shfl_xor_sync(full_mask, (long long)newest.sample, offset)),
                            __shfl_xor_sync(full_mask, newest.position, offset)};
        if (other.newer_than(newest)) newest = other;
      }
    }
    if (lane() != 0) continue;
    winner[i] = newest.position;
    place[i] = newest.position >= 0;
  }
}

// place: exclusive sums by now.
static __global__ void memory_bank_staged_kernel(const uint64_t* keys, const int32_t* winner, const int32_t* place, int64_t* staged_keys,
                                                 int32_t* source, int32_t* counts, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  const int32_t distinct = place[n - 1] + (winner[n - 1] >= 0);
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    if (winner[i] >= 0) {
      staged_keys[place[i]] = int64_t(flip_sign(keys[i]));
      source[place[i]] = winner[i];
    }
    if (i >= distinct) {
      staged_keys[i] = -1;
      source[i] = -1;
    }
    if (i == 0) {
      counts[0] = distinct;
      counts[2] = int32_t(n - counts[1] - distinct);
    }
  }
}

// ---- upsert

// place[j]: the slot of a known key, -1 - bucket for a new one. Entries past the count sort behind all buckets.
static __global__ void memory_bank_locate_kernel(Index index, Staged staged, int32_t* place, uint32_t* entries, int32_t* positions,
                                                 int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x, count = staged.counts[0];
  for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < n; j += stride) {
    positions[j] = int32_t(j);
    entries[j] = uint32_t(index.buckets) << 1;
    if (j >= count) continue;
    const uint64_t hash = hash_key(staged.keys[j], index.seed);
    const int64_t slot = index.find(staged.keys[j], hash), bucket = slot >= 0 ? slot / bank_width : index.bucket_for(hash);
    place[j] = int32_t(slot >= 0 ? slot : -1 - bucket);
    entries[j] = uint32_t(bucket) << 1 | uint32_t(slot < 0);
  }
}

struct BankArrays {
  uint8_t* fingerprints;
  int64_t* keys;
  int32_t *stamps, *times;
};

// The lane below bank_width with the least value, the lowest at a tie; `least` receives the value.
static __device__ __forceinline__ int lane_of_least(int32_t value, int32_t& least) {
  least = ~warp_max(lane() < bank_width ? ~value : ~highest);
  return __ffs(int(__ballot_sync(full_mask, lane() < bank_width && value == least))) - 1;
}

template <class Word>
__global__ void memory_bank_upsert_kernel(BankArrays bank, Word* rows, unsigned long long* counters, Staged staged, const Word* staged_rows,
                                          const int32_t* steps, const int32_t* event_times, const double* factor, const int32_t* place,
                                          const uint32_t* entries, const int32_t* positions, int64_t n, int64_t words, int64_t seed,
                                          int64_t now, int64_t expired_before, bool evict) {
  if (factor && !(*factor > 0)) return;  // NaN: the step was skipped, it leaves no trace
  SHARED(int[counters_size], tally);
  if (threadIdx.x < counters_size)
    tally[threadIdx.x] = blockIdx.x != 0 ? 0 : threadIdx.x == refused ? staged.counts[1] : threadIdx.x == superseded ? staged.counts[2] : 0;
  __syncthreads();

  const int64_t count = staged.counts[0], warps = int64_t(gridDim.x) * blockDim.x / warp_size;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size; i < count; i += warps) {
    const int64_t bucket = entries[i] >> 1;
    if (i > 0 && entries[i - 1] >> 1 == bucket) continue;  // the warp of an earlier entry owns it

    const int64_t slot = bucket * bank_width + lane();
    const bool mine = lane() < bank_width;
    uint8_t fingerprint = mine ? bank.fingerprints[slot] : 1;
    int64_t key = mine ? bank.keys[slot] : 0;
    int32_t stamp = mine ? bank.stamps[slot] : highest, time = mine && bank.times ? bank.times[slot] : highest;
    int32_t winner = -1;  // the staged row that ends up in this lane's slot

    for (int64_t e = i; e < count && entries[e] >> 1 == bucket; e++) {
      const int32_t entry = positions[e], row = staged.source[entry];
      const int32_t row_step = steps ? steps[row] : int32_t(now), row_time = event_times ? event_times[row] : 0;
      const bool known = place[entry] >= 0;
      int s;
      if (known) {
        s = int(place[entry] - bucket * bank_width);
        if (__shfl_sync(full_mask, stamp, s) > row_step) s = -1;
        if (lane() == 0) atomicAdd(&tally[s < 0 ? superseded : updated], 1);
      } else {
        const unsigned empty = __ballot_sync(full_mask, fingerprint == 0);
        s = __ffs(int(empty)) - 1;
        int32_t least;
        if (s < 0 && bank.times) {
          const int oldest = lane_of_least(time, least);
          if (least < expired_before) s = oldest;
        }
        if (s < 0 && evict) {
          const int oldest = lane_of_least(stamp, least);
          if (least < row_step) s = oldest;
        }
        if (lane() == 0) {
          atomicAdd(&tally[s < 0 ? dropped : inserted], 1);
          if (s >= 0 && empty == 0) atomicAdd(&tally[evicted], 1);
        }
      }
      if (lane() != s) continue;
      if (!known) key = staged.keys[entry], fingerprint = fingerprint_of(hash_key(key, seed));
      stamp = row_step;
      time = row_time;
      winner = row;
    }

    if (winner >= 0) {
      bank.fingerprints[slot] = fingerprint;
      bank.keys[slot] = key;
      bank.stamps[slot] = stamp;
      if (bank.times) bank.times[slot] = time;
    }
    for (unsigned written = __ballot_sync(full_mask, winner >= 0); written; written &= written - 1) {
      const int s = __ffs(int(written)) - 1;
      copy_row_of_warp(staged_rows + __shfl_sync(full_mask, winner, s) * words, rows + (bucket * bank_width + s) * words, words);
    }
  }
  __syncthreads();
  if (threadIdx.x < counters_size && tally[threadIdx.x])
    atomicAdd(&counters[threadIdx.x], static_cast<unsigned long long>(tally[threadIdx.x]));
}

// ---- launchers

static Index index_of(const Tensor& fingerprints, const Tensor& keys, int64_t seed) {
  return {fingerprints.data<uint8_t>(), keys.data<int64_t>(), fingerprints.shape[0], seed};
}
static Staged staged_of(const Tensor& keys, const Tensor& source, const Tensor& counts) {
  return {keys.data<int64_t>(), source.data<int32_t>(), counts.data<int32_t>()};
}
static int64_t row_bytes_of(const Tensor& rows) { return rows.shape[1] * int64_t(size_of(rows.dtype)); }
static unsigned grid_of_threads(int64_t n) { return grid_of((n + 255) / 256); }
static unsigned grid_of_warps(int64_t n) { return grid_of((n + 7) / 8); }

void memory_bank_lookup(const Tensor& fingerprints, const Tensor& keys, const Tensor& stamps, const Tensor& wanted, Tensor& slot,
                        Tensor& age, int64_t seed, int64_t now, int64_t max_age) {
  const int64_t n = wanted.size();
  launch(memory_bank_lookup_kernel, grid_of_threads(n), 256, 0, index_of(fingerprints, keys, seed), stamps.data<int32_t>(),
         wanted.data<int64_t>(), slot.data<int32_t>(), age.data<int32_t>(), n, now, max_age);
}

void memory_bank_gather(const Tensor& fingerprints, const Tensor& keys, const Tensor& stamps, const Tensor& rows, const Tensor& wanted,
                        const Tensor& staged_keys, const Tensor& source, const Tensor& counts, const Tensor& staged_rows, Tensor& out,
                        Tensor& age, Tensor& joined, int64_t seed, int64_t now, int64_t max_age) {
  const int64_t n = wanted.size(), row_bytes = row_bytes_of(rows);
  dispatch_words(
      row_bytes,
      [&]<class Word>() {
        launch(memory_bank_gather_kernel<Word>, grid_of_threads(n), 256, 0, index_of(fingerprints, keys, seed), stamps.data<int32_t>(),
               rows.data<Word>(), wanted.data<int64_t>(), staged_of(staged_keys, source, counts), staged_rows.data<Word>(),
               out.data<Word>(), age.data<int32_t>(), joined.data<int32_t>(), n, row_bytes / int64_t(sizeof(Word)), now, max_age);
      },
      rows.data<void>(), staged_rows.data<void>(), out.data<void>());
}

void memory_bank_join(const Tensor& rows, const Tensor& row_age, const Tensor& wanted, const Tensor& staged_keys, const Tensor& source,
                      const Tensor& counts, const Tensor& staged_rows, Tensor& out, Tensor& age, Tensor& joined) {
  const int64_t n = wanted.size(), row_bytes = row_bytes_of(rows);
  dispatch_words(
      row_bytes,
      [&]<class Word>() {
        launch(memory_bank_join_kernel<Word>, grid_of_threads(n), 256, 0, rows.data<Word>(), row_age.data<int32_t>(),
               wanted.data<int64_t>(), staged_of(staged_keys, source, counts), staged_rows.data<Word>(), out.data<Word>(),
               age.data<int32_t>(), joined.data<int32_t>(), n, row_bytes / int64_t(sizeof(Word)));
      },
      rows.data<void>(), staged_rows.data<void>(), out.data<void>());
}

void memory_bank_stage(const Tensor& keys, const Tensor& rows, const Tensor& steps, const Tensor& samples, Tensor& staged_keys,
                       Tensor& source, Tensor& counts) {
  const int64_t n = keys.size(), D = rows.shape[1];
  fill(counts, 0);
  if (n == 0) return;
  RadixSort<uint64_t> order(n);
  const Scratch<uint8_t> usable(n);
  dispatch_bits(rows.dtype, [&]<class Bits>() {
    launch(memory_bank_check_kernel<Bits>, grid_of_warps(n), 256, 0, keys.data<int64_t>(), rows.data<Bits>(), order.keys(),
           order.positions(), usable.data(), counts.data<int32_t>(), n, D);
  });
  order.sort(64);
  const Scratch<int32_t> winner(n), place(n);
  launch(memory_bank_newest_kernel, grid_of_warps(n), 256, 0, order.keys(), order.positions(), usable.data(), steps.data<int32_t>(),
         samples.data<int64_t>(), winner.data(), place.data(), n);
  exclusive_scan(place.data(), n);
  launch(memory_bank_staged_kernel, grid_of_threads(n), 256, 0, order.keys(), winner.data(), place.data(), staged_keys.data<int64_t>(),
         source.data<int32_t>(), counts.data<int32_t>(), n);
}

void memory_bank_upsert(Tensor& fingerprints, Tensor& keys, Tensor& stamps, Tensor& times, Tensor& rows, Tensor& counters,
                        const Tensor& staged_keys, const Tensor& source, const Tensor& counts, const Tensor& staged_rows,
                        const Tensor& steps, const Tensor& event_times, const Tensor& factor, int64_t seed, int64_t now,
                        int64_t expired_before, bool evict) {
  const int64_t n = staged_keys.size(), row_bytes = row_bytes_of(rows);
  if (n == 0) return;
  const Index index = index_of(fingerprints, keys, seed);
  const Staged staged = staged_of(staged_keys, source, counts);
  RadixSort<uint32_t> order(n);
  const Scratch<int32_t> place(n);
  launch(memory_bank_locate_kernel, grid_of_threads(n), 256, 0, index, staged, place.data(), order.keys(), order.positions(), n);
  order.sort(bits_for(2 * uint64_t(index.buckets) + 1));
  const BankArrays bank{fingerprints.data<uint8_t>(), keys.data<int64_t>(), stamps.data<int32_t>(), times.data<int32_t>()};
  dispatch_words(
      row_bytes,
      [&]<class Word>() {
        launch(memory_bank_upsert_kernel<Word>, grid_of_warps(n), 256, 0, bank, rows.data<Word>(), counters.data<unsigned long long>(),
               staged, staged_rows.data<Word>(), steps.data<int32_t>(), event_times.data<int32_t>(), factor.data<double>(), place.data(),
               order.keys(), order.positions(), n, row_bytes / int64_t(sizeof(Word)), seed, now, expired_before, evict);
      },
      rows.data<void>(), staged_rows.data<void>());
}

}  // namespace galago::cuda
