/*
Sums of rows that share a destination, without atomics: lookups are sorted by (row, position), each run of equal rows is summed in
order of position. Runs are cut into chunks of run_chunk lookups, whose sums are added in chunk order, so that one popular row
occupies all threads and a long sum keeps its precision. Chunks follow from the data alone.
*/
#pragma once
#include <cstdint>
#include <vector>

#include "dispatch.h"
#include "radix_sort.h"
#include "scratch.h"

namespace galago::cpu {

constexpr int64_t run_chunk = 256;

// One lookup's share of the sum of its row: weight * value[0 .. D).
template <class T>
struct RowTerm {
  const T* value;
  T weight;
};

struct SortedRows {
  const Keyed<uint32_t>* lookups = nullptr;  // by (row, position)
  std::vector<int64_t> heads;                // run r: lookups[heads[r]] .. lookups[heads[r + 1])
  int64_t runs() const { return int64_t(heads.size()) - 1; }
  int64_t row(int64_t run) const { return lookups[heads[size_t(run)]].key; }
};

// Sorts the lookups whose row_of(position) is in [0, num_rows); others are padding. Valid until the thread uses ScratchSlot::kernel.
template <class RowOf>
SortedRows sort_rows(int64_t n, int64_t num_rows, const RowOf& row_of) {
  auto* items = scratch<Keyed<uint32_t>>(ScratchSlot::kernel, 2 * n);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t row = row_of(i);
    if (row >= 0 && row < num_rows) items[count++] = {uint32_t(row), int32_t(i)};
  }
  SortedRows sorted;
  sorted.lookups = radix_sort(items, items + n, count);
  sorted.heads.reserve(size_t(count) + 1);
  for (int64_t i = 0; i < count; i++)
    if (i == 0 || sorted.lookups[i].key != sorted.lookups[i - 1].key) sorted.heads.push_back(i);
  sorted.heads.push_back(count);
  return sorted;
}

// to(run)[0 .. D) = sum over the run's lookups of term(position). Uses ScratchSlot::kernel_second.
template <class T, class Term, class To>
void sum_runs(const SortedRows& sorted, int64_t D, const Term& term, const To& to) {
  struct Chunk {
    int64_t begin, end;
    T* to;
  };
  struct LongRun {
    int64_t run, first, chunks;  // partial sums first .. first + chunks
  };
  std::vector<Chunk> chunks;
  std::vector<LongRun> long_runs;
  chunks.reserve(size_t(sorted.runs()));
  int64_t partials = 0;
  for (int64_t r = 0; r < sorted.runs(); r++) {
    const int64_t length = sorted.heads[size_t(r) + 1] - sorted.heads[size_t(r)];
    if (length <= run_chunk) continue;
    long_runs.push_back({r, partials, chunk_count(length, run_chunk)});
    partials += long_runs.back().chunks;
  }
  T* partial = scratch<T>(ScratchSlot::kernel_second, partials * D);
  size_t next = 0;
  for (int64_t r = 0; r < sorted.runs(); r++) {
    const int64_t begin = sorted.heads[size_t(r)], end = sorted.heads[size_t(r) + 1];
    if (end - begin <= run_chunk) {
      chunks.push_back({begin, end, to(r)});
      continue;
    }
    T* slot = partial + long_runs[next++].first * D;
    for (int64_t i = begin; i < end; i += run_chunk, slot += D) chunks.push_back({i, std::min(i + run_chunk, end), slot});
  }

  const int64_t lookups = sorted.heads.back(), count = int64_t(chunks.size());
  const int64_t grain = count == 0 ? 1 : std::max<int64_t>(1, row_grain(D) * count / std::max<int64_t>(lookups, 1));
  parallel_for(count, grain, [&](int64_t first, int64_t last) {
    vectorize<T>([&] {
      for (int64_t c = first; c < last; c++) {
        T* sum = chunks[size_t(c)].to;
        for (int64_t i = chunks[size_t(c)].begin; i < chunks[size_t(c)].end; i++) {
          const RowTerm<T> part = term(sorted.lookups[i].position);
          if (i == chunks[size_t(c)].begin)
            for (int64_t d = 0; d < D; d++) sum[d] = part.weight * part.value[d];
          else
            for (int64_t d = 0; d < D; d++) sum[d] += part.weight * part.value[d];
        }
      }
    });
  });
  parallel_for(int64_t(long_runs.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t l = first; l < last; l++) {
      const LongRun& run = long_runs[size_t(l)];
      T* sum = to(run.run);
      for (int64_t c = 0; c < run.chunks; c++) {
        const T* part = partial + (run.first + c) * D;
        for (int64_t d = 0; d < D; d++) sum[d] = (c == 0 ? T(0) : sum[d]) + part[d];
      }
    }
  });
}

}  // namespace galago::cpu
