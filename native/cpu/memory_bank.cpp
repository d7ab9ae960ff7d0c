/*
Rows by 64-bit key. A look-up reads the fingerprints of two buckets (16 bytes each) and then, nearly always, one key: three random
reads before the row. They are made for blocks of 64 keys, and while the rows of one block are copied the reads of the next two are
under way, so that memory answers many of them at a time.

Upsert never spins and never compares and swaps: keys are looked up in the table as it stood, sorted by (bucket, known before new,
key), and a bucket's entries are applied one after the other by one thread. Threads change no byte.
*/
#include <algorithm>
#include <atomic>
#include <cstring>

#include "../core/hash.h"
#include "dispatch.h"
#include "prefetch.h"
#include "radix_sort.h"
#include "scratch.h"
#include "usable_row.h"

#if GALAGO_X86
#include <immintrin.h>
#endif

namespace galago::cpu {

namespace {

constexpr int bank_width = 16;  // slots of a bucket
constexpr int64_t block_keys = 64;
constexpr uint64_t sign_bit = uint64_t(1) << 63;  // flipped, signed keys sort as unsigned ones

// Bit s of the result: whether slot s of a bucket has this fingerprint.
GALAGO_INLINE uint32_t equal_slots(const uint8_t* bucket, uint8_t fingerprint) {
#if GALAGO_X86
  const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bucket));
  return uint32_t(_mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_set1_epi8(char(fingerprint)))));
#else
  uint32_t equal = 0;
  for (int s = 0; s < bank_width; s++) equal |= uint32_t(bucket[s] == fingerprint) << s;
  return equal;
#endif
}

// Where keys lie. The slots of a key's two buckets are candidates 0 .. 15 and 16 .. 31.
struct Index {
  const uint8_t* fingerprints;
  const int64_t* keys;
  const int32_t* stamps;
  int64_t buckets, seed;

  Index(const Tensor& fingerprints, const Tensor& keys, const Tensor& stamps, int64_t seed)
      : fingerprints(fingerprints.data<uint8_t>()),
        keys(keys.data<int64_t>()),
        stamps(stamps.data<int32_t>()),
        buckets(fingerprints.shape[0]),
        seed(seed) {}

  int64_t first(uint64_t hash) const { return first_bucket(hash, buckets) * bank_width; }
  int64_t second(uint64_t hash) const { return second_bucket(hash, buckets) * bank_width; }
  int64_t slot_of(uint64_t hash, uint32_t candidates) const {
    const int64_t candidate = __builtin_ctz(candidates);
    return (candidate < bank_width ? first(hash) : second(hash)) + candidate % bank_width;
  }

  int empty_slots(int64_t bucket) const { return __builtin_popcount(equal_slots(fingerprints + bucket * bank_width, 0)); }

  // Where a key that is not there would go: the emptier of its buckets, the first at a tie.
  int64_t bucket_for(uint64_t hash) const {
    const int64_t in_first = first_bucket(hash, buckets), in_second = second_bucket(hash, buckets);
    return empty_slots(in_second) > empty_slots(in_first) ? in_second : in_first;
  }

  // Up to block_keys keys on their way through three steps. Each asks memory for what the next one reads.
  struct Block {
    int64_t count;
    const int64_t* wanted;
    uint64_t hashes[block_keys];
    uint32_t candidates[block_keys];
    int64_t slots[block_keys];  // in the end where each key lies, or -1
  };

  [[gnu::noinline]] void hash(Block& block, const int64_t* wanted, int64_t count) const {
    block.wanted = wanted;
    block.count = count;
    vectorize([=, this, &block] {
      for (int64_t i = 0; i < count; i++) block.hashes[i] = hash_key(wanted[i], seed);
    });
    for (int64_t i = 0; i < count; i++) {
      __builtin_prefetch(fingerprints + first(block.hashes[i]));
      __builtin_prefetch(fingerprints + second(block.hashes[i]));
    }
  }

  [[gnu::noinline]] void match(Block& block) const {
    for (int64_t i = 0; i < block.count; i++) {
      const uint64_t hash = block.hashes[i];
      const uint8_t fingerprint = fingerprint_of(hash);
      const uint32_t candidates =
          equal_slots(fingerprints + first(hash), fingerprint) | equal_slots(fingerprints + second(hash), fingerprint) << bank_width;
      block.candidates[i] = candidates;
      block.slots[i] = candidates ? slot_of(hash, candidates) : -1;
      if (candidates) __builtin_prefetch(keys + block.slots[i]), __builtin_prefetch(stamps + block.slots[i]);
    }
  }

  [[gnu::noinline]] void verify(Block& block) const {
    for (int64_t i = 0; i < block.count; i++) {
      uint32_t left = block.candidates[i];
      while (left && keys[block.slots[i]] != block.wanted[i]) {  // seldom: another key with this fingerprint
        left &= left - 1;
        block.slots[i] = left ? slot_of(block.hashes[i], left) : -1;
      }
    }
  }

  // Calls visit(block, first) for the keys first .. first + block.count of [begin, end), with the steps of the next two blocks under way.
  template <class Visit>
  void find(const int64_t* wanted, int64_t begin, int64_t end, const Visit& visit) const {
    Block blocks[3];
    const auto hash_at = [&](int64_t at, Block& block) { hash(block, wanted + at, std::clamp<int64_t>(end - at, 0, block_keys)); };
    hash_at(begin, blocks[0]);
    hash_at(begin + block_keys, blocks[1]);
    match(blocks[0]);
    int turn = 0;
    for (int64_t at = begin; at < end; at += block_keys, turn = (turn + 1) % 3) {
      verify(blocks[turn]);
      match(blocks[(turn + 1) % 3]);
      hash_at(at + 2 * block_keys, blocks[(turn + 2) % 3]);
      visit(blocks[turn], at);
    }
  }
};

// Steps since the last write; -1 where that is more than max_age.
int32_t age_of(int64_t now, int32_t stamp, int64_t max_age) {
  const int64_t age = std::clamp<int64_t>(now - stamp, 0, INT32_MAX);
  return max_age >= 0 && age > max_age ? -1 : int32_t(age);
}

// The rows of this step, by key.
struct Staged {
  const int64_t* keys = nullptr;
  const int32_t* source = nullptr;
  int64_t count = 0;

  Staged(const Tensor& staged_keys, const Tensor& source, const Tensor& counts)
      : keys(staged_keys.data<int64_t>()), source(source.data<int32_t>()), count(counts ? counts.data<int32_t>()[0] : 0) {}

  int32_t find(int64_t key) const {
    const int64_t* found = std::lower_bound(keys, keys + count, key);
    return found != keys + count && *found == key ? source[found - keys] : -1;
  }
};

// Calls body(Bits zero) with the unsigned integer as wide as an element.
template <class F>
void dispatch_bits(DType dtype, F&& body) {
  switch (size_of(dtype)) {
    case 2: return body(uint16_t(0));
    case 4: return body(uint32_t(0));
    default: return body(uint64_t(0));
  }
}

}  // namespace

void memory_bank_lookup(const Tensor& fingerprints, const Tensor& keys, const Tensor& stamps, const Tensor& wanted, Tensor& slot,
                        Tensor& age, int64_t seed, int64_t now, int64_t max_age) {
  const Index index(fingerprints, keys, stamps, seed);
  const int64_t* key = wanted.data<int64_t>();
  int32_t *to = slot.data<int32_t>(), *page = age.data<int32_t>();
  parallel_for(wanted.size(), 64 * block_keys, [&](int64_t begin, int64_t end) {
    index.find(key, begin, end, [&](const Index::Block& block, int64_t at) {
      for (int64_t i = 0; i < block.count; i++) {
        page[at + i] = block.slots[i] < 0 ? -1 : age_of(now, index.stamps[block.slots[i]], max_age);
        to[at + i] = page[at + i] < 0 ? -1 : int32_t(block.slots[i]);
      }
    });
  });
}

void memory_bank_gather(const Tensor& fingerprints, const Tensor& keys, const Tensor& stamps, const Tensor& rows, const Tensor& wanted,
                        const Tensor& staged_keys, const Tensor& source, const Tensor& counts, const Tensor& staged_rows, Tensor& out,
                        Tensor& age, Tensor& joined, int64_t seed, int64_t now, int64_t max_age) {
  const Index index(fingerprints, keys, stamps, seed);
  const Staged staged(staged_keys, source, counts);
  const int64_t row_bytes = int64_t(size_of(rows.dtype)) * rows.shape[1];
  const char *table = rows.data<char>(), *fresh = staged_rows.data<char>();
  const int64_t* key = wanted.data<int64_t>();
  int32_t *page = age.data<int32_t>(), *from = joined.data<int32_t>();
  char* to = out.data<char>();
  parallel_for(wanted.size(), 16 * block_keys, [&](int64_t begin, int64_t end) {
    const char* row[block_keys];
    index.find(key, begin, end, [&](const Index::Block& block, int64_t at) {
      for (int64_t i = 0; i < block.count; i++) {
        const int32_t position = staged.count ? staged.find(block.wanted[i]) : -1;
        const int64_t slot = block.slots[i];
        const int32_t old = position >= 0 ? 0 : slot < 0 ? -1 : age_of(now, index.stamps[slot], max_age);
        row[i] = position >= 0 ? fresh + position * row_bytes : old >= 0 ? table + slot * row_bytes : nullptr;
        page[at + i] = old;
        if (from) from[at + i] = position;
        if (i < prefetch_distance && row[i]) prefetch_row(row[i], row_bytes);
      }
      for (int64_t i = 0; i < block.count; i++) {
        const char* later = i + prefetch_distance < block.count ? row[i + prefetch_distance] : nullptr;
        if (later) prefetch_row(later, row_bytes);
        char* target = to + (at + i) * row_bytes;
        if (row[i])
          std::memcpy(target, row[i], size_t(row_bytes));
        else
          std::memset(target, 0, size_t(row_bytes));
      }
    });
  });
}

void memory_bank_join(const Tensor& rows, const Tensor& row_age, const Tensor& wanted, const Tensor& staged_keys, const Tensor& source,
                      const Tensor& counts, const Tensor& staged_rows, Tensor& out, Tensor& age, Tensor& joined) {
  const Staged staged(staged_keys, source, counts);
  const int64_t row_bytes = int64_t(size_of(rows.dtype)) * rows.shape[1];
  const char *earlier = rows.data<char>(), *fresh = staged_rows.data<char>();
  const int64_t* key = wanted.data<int64_t>();
  const int32_t* earlier_age = row_age.data<int32_t>();
  int32_t *page = age.data<int32_t>(), *from = joined.data<int32_t>();
  char* to = out.data<char>();
  parallel_for(wanted.size(), row_grain(rows.shape[1]), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t position = staged.find(key[i]);
      from[i] = position;
      page[i] = position >= 0 ? 0 : earlier_age[i];
      std::memcpy(to + i * row_bytes, position >= 0 ? fresh + position * row_bytes : earlier + i * row_bytes, size_t(row_bytes));
    }
  });
}

void memory_bank_stage(const Tensor& keys, const Tensor& rows, const Tensor& steps, const Tensor& samples, Tensor& staged_keys,
                       Tensor& source, Tensor& counts) {
  const int64_t n = keys.size(), D = rows.shape[1];
  const int64_t *key = keys.data<int64_t>(), *sample = samples.data<int64_t>();
  const int32_t* step = steps.data<int32_t>();
  int64_t* to = staged_keys.data<int64_t>();
  int32_t* from = source.data<int32_t>();

  uint8_t* usable = scratch<uint8_t>(ScratchSlot::kernel_second, n);
  dispatch_bits(rows.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    const Bits* row = rows.data<Bits>();
    parallel_for(n, row_grain(D), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) usable[i] = usable_row(row + i * D, D);  // memory sets the pace, not the instruction set
    });
  });

  auto* items = scratch<Keyed<uint64_t>>(ScratchSlot::kernel, 2 * n);
  int64_t count = 0;
  bool ascending = true;
  for (int64_t i = 0; i < n; i++) {
    if (!usable[i]) continue;
    items[count] = {uint64_t(key[i]) ^ sign_bit, int32_t(i)};
    ascending &= count == 0 || items[count - 1].key <= items[count].key;
    count++;
  }
  const Keyed<uint64_t>* sorted = ascending ? items : radix_sort(items, items + n, count);

  const auto newer = [&](int32_t a, int32_t b) {  // a at a later position
    if (step && step[a] != step[b]) return step[a] > step[b];
    return !sample || sample[a] >= sample[b];
  };
  int64_t distinct = 0;
  for (int64_t i = 0; i < count; i++) {
    const int32_t position = sorted[i].position;
    if (i == 0 || sorted[i].key != sorted[i - 1].key) {
      to[distinct] = int64_t(sorted[i].key ^ sign_bit);
      from[distinct++] = position;
    } else if (newer(position, from[distinct - 1])) {
      from[distinct - 1] = position;
    }
  }
  std::fill(to + distinct, to + n, int64_t(-1));
  std::fill(from + distinct, from + n, -1);
  int32_t* counted = counts.data<int32_t>();
  counted[0] = int32_t(distinct);
  counted[1] = int32_t(n - count);
  counted[2] = int32_t(count - distinct);
}

namespace {

enum Counter { inserted, updated, evicted, dropped, refused, superseded, counters_size };

struct Tally {
  int64_t count[counters_size] = {};
  void add_to(int64_t* counters) const {
    for (int c = 0; c < counters_size; c++)
      if (count[c]) std::atomic_ref(counters[c]).fetch_add(count[c], std::memory_order_relaxed);
  }
};

// One bucket while the entries of an upsert are applied to it.
struct Bucket {
  uint8_t* fingerprints;
  int64_t* keys;
  int32_t *stamps, *times;
  int32_t winner[bank_width];  // the staged row that ends up in each slot, -1 = unchanged

  Bucket(int64_t bucket, uint8_t* fingerprints, int64_t* keys, int32_t* stamps, int32_t* times)
      : fingerprints(fingerprints + bucket * bank_width),
        keys(keys + bucket * bank_width),
        stamps(stamps + bucket * bank_width),
        times(times ? times + bucket * bank_width : nullptr) {
    std::fill(winner, winner + bank_width, -1);
  }

  // Where a new key of this step goes, -1 = nowhere.
  int free_slot(int32_t step, int64_t expired_before, bool evict) const {
    for (int s = 0; s < bank_width; s++)
      if (fingerprints[s] == 0) return s;
    if (times) {
      const int s = int(std::min_element(times, times + bank_width) - times);
      if (times[s] < expired_before) return s;
    }
    const int s = int(std::min_element(stamps, stamps + bank_width) - stamps);
    return evict && stamps[s] < step ? s : -1;
  }

  void write(int s, int64_t key, uint8_t fingerprint, int32_t step, int32_t time, int32_t row) {
    keys[s] = key;
    fingerprints[s] = fingerprint;
    stamps[s] = step;
    if (times) times[s] = time;
    winner[s] = row;
  }
};

}  // namespace

void memory_bank_upsert(Tensor& fingerprints, Tensor& keys, Tensor& stamps, Tensor& times, Tensor& rows, Tensor& counters,
                        const Tensor& staged_keys, const Tensor& source, const Tensor& counts, const Tensor& staged_rows,
                        const Tensor& steps, const Tensor& event_times, const Tensor& factor, int64_t seed, int64_t now,
                        int64_t expired_before, bool evict) {
  if (factor && !(*factor.data<double>() > 0)) return;  // NaN: the step was skipped, it leaves no trace
  const Index index(fingerprints, keys, stamps, seed);
  const Staged staged(staged_keys, source, counts);
  const int64_t row_bytes = int64_t(size_of(rows.dtype)) * rows.shape[1];
  int64_t* total = counters.data<int64_t>();
  total[refused] += counts.data<int32_t>()[1];
  total[superseded] += counts.data<int32_t>()[2];

  // place: the slot of a known key, -1 - bucket for a new one; entries by (bucket, new, key)
  int32_t* place = scratch<int32_t>(ScratchSlot::kernel_second, staged.count);
  auto* entries = scratch<Keyed<uint32_t>>(ScratchSlot::kernel, 2 * staged.count);
  parallel_for(staged.count, 16 * block_keys, [&](int64_t begin, int64_t end) {
    index.find(staged.keys, begin, end, [&](const Index::Block& block, int64_t at) {
      for (int64_t i = 0; i < block.count; i++) {
        const int64_t slot = block.slots[i];
        const int64_t bucket = slot < 0 ? index.bucket_for(block.hashes[i]) : slot / bank_width;
        place[at + i] = int32_t(slot < 0 ? -1 - bucket : slot);
        entries[at + i] = {uint32_t(bucket) << 1 | uint32_t(slot < 0), int32_t(at + i)};
      }
    });
  });
  const Keyed<uint32_t>* sorted = radix_sort(entries, entries + staged.count, staged.count);
  const auto bucket_of = [sorted](int64_t i) { return int64_t(sorted[i].key >> 1); };

  const char* fresh = staged_rows.data<char>();
  char* table = rows.data<char>();
  const int32_t *step = steps.data<int32_t>(), *time = event_times.data<int32_t>();
  parallel_for(staged.count, 16 * block_keys, [&](int64_t begin, int64_t end) {
    Tally tally;
    int64_t i = begin;
    while (i < end && i > 0 && bucket_of(i) == bucket_of(i - 1)) i++;  // a bucket belongs to the chunk in which it begins
    while (i < end) {
      const int64_t b = bucket_of(i);
      Bucket bucket(b, fingerprints.data<uint8_t>(), keys.data<int64_t>(), stamps.data<int32_t>(), times.data<int32_t>());
      for (; i < staged.count && bucket_of(i) == b; i++) {
        const int32_t entry = sorted[i].position, row = staged.source[entry];
        const int32_t row_step = step ? step[row] : int32_t(now), row_time = time ? time[row] : 0;
        const int64_t key = staged.keys[entry];
        if (place[entry] >= 0) {
          const int s = int(place[entry] - b * bank_width);
          const bool stale = bucket.stamps[s] > row_step;
          tally.count[stale ? superseded : updated]++;
          if (!stale) bucket.write(s, key, bucket.fingerprints[s], row_step, row_time, row);
          continue;
        }
        const int s = bucket.free_slot(row_step, expired_before, evict);
        tally.count[s < 0 ? dropped : inserted]++;
        if (s < 0) continue;
        tally.count[evicted] += bucket.fingerprints[s] != 0;
        bucket.write(s, key, fingerprint_of(hash_key(key, seed)), row_step, row_time, row);
      }
      for (int s = 0; s < bank_width; s++)
        if (bucket.winner[s] >= 0)
          std::memcpy(table + (b * bank_width + s) * row_bytes, fresh + bucket.winner[s] * row_bytes, size_t(row_bytes));
    }
    tally.add_to(total);
  });
}

}  // namespace galago::cpu
