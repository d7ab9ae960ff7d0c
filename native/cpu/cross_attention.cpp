/*
Attention over jagged keys: each query row attends to the keys of its own item.

One unit of work is one item and one key head. For a tile of its queries the scores of all its keys stand in scratch memory, as a
dense block that softmax and the products with v, k, q and dout read; nothing of size queries x keys is stored. Backward recomputes
the probabilities from lse. A unit owns its rows of out, dq, dk and dv, so no sum depends on the order of threads; only queries shared
by all items have a partial dq per chunk of items, added in chunk order.

Vector lanes of the block run along queries or along keys, whichever wastes fewer of them: many queries, or one query over a history.
*/
#include <cmath>
#include <cstring>
#include <limits>

#include "dispatch.h"
#include "offsets.h"
#include "scratch.h"
#include "small_product.h"
#include "vector_math.h"

namespace galago::cpu {

namespace {

constexpr int64_t lanes = 16;
constexpr int64_t padded(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// A row of lanes, in registers.
template <class T>
struct LaneVector {
  typedef T Type __attribute__((vector_size(lanes * sizeof(T))));
};
template <class T>
using Lanes = typename LaneVector<T>::Type;
template <class T>
GALAGO_INLINE Lanes<T> load(const T* x) {
  Lanes<T> row;
  std::memcpy(&row, x, sizeof row);
  return row;
}
template <class T>
GALAGO_INLINE void store(T* x, const Lanes<T>& row) {
  std::memcpy(x, &row, sizeof row);
}
template <class T>
GALAGO_INLINE Lanes<T> exp_lanes(const Lanes<T>& x) {
  T values[lanes];
  store(values, x);
  for (int64_t l = 0; l < lanes; l++) values[l] = fast_exp(values[l]);
  return load(values);
}

// All lanes of a row by one operation, as a tree.
template <class T, class Combine>
GALAGO_INLINE T across(const Lanes<T>& x, const Combine& combine) {
  T values[lanes];
  store(values, x);
  for (int64_t width = lanes / 2; width > 0; width /= 2)
    for (int64_t l = 0; l < width; l++) values[l] = combine(values[l], values[l + width]);
  return values[0];
}
template <class T>
GALAGO_INLINE T across_sum(const Lanes<T>& x) {
  return across<T>(x, [](T a, T b) GALAGO_INLINE_BODY { return a + b; });
}

// Strides of the score block: lanes along queries (a row per key) or along keys (a row per query).
struct Block {
  bool along_queries;
  int64_t queries, keys;
  int64_t width() const { return padded(along_queries ? queries : keys); }  // of a row
  int64_t rows() const { return along_queries ? keys : queries; }
  int64_t size() const { return rows() * width(); }
  int64_t query_stride() const { return along_queries ? 1 : width(); }
  int64_t key_stride() const { return along_queries ? width() : 1; }
};

template <class T>
struct Attention {
  int64_t B, H, Hkv, D, Tq, Tk;  // Tq rows of out, Tk keys
  int64_t queries_per_item;      // without q_offsets
  bool shared;                   // q has the rows of one item, used by all
  bool causal;
  T scale;
  const T *q, *k, *v;
  const int32_t* mask;
  std::vector<int32_t> key_offsets, query_offsets;

  Attention(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& offsets, const Tensor& q_offsets, const Tensor& mask_,
            const Tensor& out, bool causal_, double scale_)
      : B(offsets.size() - 1),
        H(out.shape[out.rank - 2]),
        Hkv(k_.shape[1]),
        D(out.columns()),
        Tq(out.rank == 4 ? out.shape[0] * out.shape[1] : out.shape[0]),
        Tk(k_.shape[0]),
        queries_per_item(out.rank == 4 ? out.shape[1] : 0),
        shared(out.rank == 4 && q_.shape[0] != out.shape[0]),
        causal(causal_),
        scale(T(scale_)),
        q(q_.data<T>()),
        k(k_.data<T>()),
        v(v_.data<T>()),
        mask(mask_.data<int32_t>()),
        key_offsets(checked_offsets("crossAttention", "offsets", offsets, Tk)) {
    if (q_offsets) query_offsets = checked_offsets("crossAttention", "qOffsets", q_offsets, Tq);
  }

  int64_t first_key(int64_t b) const { return key_offsets[size_t(b)]; }
  int64_t keys(int64_t b) const { return key_offsets[size_t(b) + 1] - first_key(b); }
  int64_t first_query(int64_t b) const { return query_offsets.empty() ? b * queries_per_item : query_offsets[size_t(b)]; }
  int64_t queries(int64_t b) const { return query_offsets.empty() ? queries_per_item : query_offsets[size_t(b) + 1] - first_query(b); }
  int64_t group() const { return H / Hkv; }  // query heads per key head
  int64_t units() const { return B * Hkv; }

  // Units per chunk, from shapes alone: about 2^16 scores times head size, and whole items where their queries are shared.
  int64_t grain() const {
    if (B == 0) return 1;
    const int64_t work = std::max<int64_t>(1, (Tk / B + 1) * (Tq / B + 1) * D * group());
    const int64_t units_per_chunk = std::max<int64_t>(1, (1 << 16) / work);
    if (!shared) return units_per_chunk;
    return std::max((units_per_chunk + Hkv - 1) / Hkv, (B + 63) / 64) * Hkv;
  }

  // Queries of a tile: their scores stay near 128 KB.
  static int64_t tile(int64_t queries, int64_t keys) {
    return std::min(queries, std::max<int64_t>(lanes, (1 << 15) / std::max<int64_t>(keys, 1) / lanes * lanes));
  }

  // A row of lanes along keys also needs a horizontal maximum and sum, which costs about half as much again.
  static Block block(int64_t queries, int64_t keys) { return {2 * padded(queries) * keys <= 3 * queries * padded(keys), queries, keys}; }
};

// Four rows of four as four columns: out[c * width + r] = x[r * stride + c] * factor.
GALAGO_INLINE void transpose_four(const float* x, int64_t stride, float factor, float* out, int64_t width) {
  typedef float Four __attribute__((vector_size(16)));
  typedef float Memory __attribute__((vector_size(16), aligned(4), may_alias));
  typedef int32_t Pick __attribute__((vector_size(16)));
  Four row[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) row[r] = *reinterpret_cast<const Memory*>(x + r * stride) * factor;
  const Pick low{0, 4, 1, 5}, high{2, 6, 3, 7}, first{0, 1, 4, 5}, second{2, 3, 6, 7};
  const Four a = __builtin_shuffle(row[0], row[1], low), b = __builtin_shuffle(row[0], row[1], high);
  const Four c = __builtin_shuffle(row[2], row[3], low), d = __builtin_shuffle(row[2], row[3], high);
  *reinterpret_cast<Memory*>(out) = __builtin_shuffle(a, c, first);
  *reinterpret_cast<Memory*>(out + width) = __builtin_shuffle(a, c, second);
  *reinterpret_cast<Memory*>(out + 2 * width) = __builtin_shuffle(b, d, first);
  *reinterpret_cast<Memory*>(out + 3 * width) = __builtin_shuffle(b, d, second);
}

// out[d * width + i] = x[i * stride + d] * factor for i < n, zero for n <= i < width: what lanes run along.
template <class T>
[[gnu::noinline]] void transpose_into(const T* x, int64_t n, int64_t stride, int64_t D, T factor, T* out, int64_t width) {
  vectorize<T>([=] {
    int64_t blocked = 0;
    if constexpr (std::is_same_v<T, float>) {
      blocked = D % 4 == 0 ? n / 4 * 4 : 0;
      for (int64_t i = 0; i < blocked; i += 4)
        for (int64_t d = 0; d < D; d += 4) transpose_four(x + i * stride + d, stride, factor, out + d * width + i, width);
    }
    for (int64_t d = 0; d < D; d++) {
      T* row = out + d * width;
      for (int64_t i = blocked; i < n; i++) row[i] = x[i * stride + d] * factor;
      for (int64_t i = n; i < width; i++) row[i] = 0;
    }
  });
}

// block = scale * (query_side . key_side) for all pairs. `packed` has room for D rows of the block's width.
template <class T>
void dot_products(const Block& block, int64_t D, const T* query_side, int64_t query_ld, const T* key_side, int64_t key_ld, T scale,
                  T* packed, T* scores) {
  const int64_t width = block.width();
  if (block.along_queries) {
    transpose_into(query_side, block.queries, query_ld, D, scale, packed, width);
    small_product(block.keys, width, D, key_side, key_ld, int64_t(1), packed, width, scores, width, false);
  } else {
    transpose_into(key_side, block.keys, key_ld, D, scale, packed, width);
    small_product(block.queries, width, D, query_side, query_ld, int64_t(1), packed, width, scores, width, false);
  }
}

// Scores that no query may see become minus infinity. `ahead`: a causal query i sees key j where j <= i + ahead.
template <class T>
void hide(const Block& block, const int32_t* mask, bool causal, int64_t ahead, T* scores) {
  constexpr T hidden = -std::numeric_limits<T>::infinity();
  const int64_t qs = block.query_stride(), ks = block.key_stride();
  if (mask)
    for (int64_t j = 0; j < block.keys; j++)
      if (mask[j] < 0)
        for (int64_t i = 0; i < block.queries; i++) scores[i * qs + j * ks] = hidden;
  if (causal)
    for (int64_t j = 0; j < block.keys; j++)
      for (int64_t i = 0; i < std::min(block.queries, j - ahead); i++) scores[i * qs + j * ks] = hidden;
}

// Scores to probabilities; lse of query i to lse[i]. A query that sees no key gets probabilities 0 and lse minus infinity.
template <class T>
void softmax_block(const Block& block, T* scores, T* lse) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  const int64_t width = block.width();
  if (block.along_queries) {
    vectorize<T>([=] {
      for (int64_t i0 = 0; i0 < width; i0 += lanes) {
        Lanes<T> top = Lanes<T>{} + lowest, sum{};
        for (int64_t j = 0; j < block.keys; j++) {
          const Lanes<T> row = load(scores + j * width + i0);
          top = row > top ? row : top;
        }
        top = top == lowest ? Lanes<T>{} : top;
        for (int64_t j = 0; j < block.keys; j++) {
          const Lanes<T> e = exp_lanes<T>(load(scores + j * width + i0) - top);
          store(scores + j * width + i0, e);
          sum += e;
        }
        const Lanes<T> inverse = sum == 0 ? sum : 1 / sum;
        for (int64_t j = 0; j < block.keys; j++) store(scores + j * width + i0, load(scores + j * width + i0) * inverse);
        T tops[lanes], sums[lanes];
        store(tops, top);
        store(sums, sum);
        for (int64_t l = 0; l < lanes; l++) tops[l] = sums[l] == 0 ? lowest : tops[l] + fast_log(sums[l]);
        std::copy(tops, tops + std::min(lanes, block.queries - i0), lse + i0);
      }
    });
  } else {
    vectorize<T>([=] {
      for (int64_t i = 0; i < block.queries; i++) {
        T* s = scores + i * width;
        std::fill(s + block.keys, s + width, lowest);
        Lanes<T> tops = Lanes<T>{} + lowest, sums{};
        for (int64_t j = 0; j < width; j += lanes) {
          const Lanes<T> row = load(s + j);
          tops = row > tops ? row : tops;
        }
        T top = across<T>(tops, [](T a, T b) GALAGO_INLINE_BODY { return a > b ? a : b; });
        if (top == lowest) top = 0;
        for (int64_t j = 0; j < width; j += lanes) {
          const Lanes<T> e = exp_lanes<T>(load(s + j) - top);
          store(s + j, e);
          sums += e;
        }
        const T sum = across_sum<T>(sums), inverse = sum > 0 ? 1 / sum : 0;
        for (int64_t j = 0; j < width; j += lanes) store(s + j, load(s + j) * inverse);
        lse[i] = sum > 0 ? top + fast_log(sum) : lowest;
      }
    });
  }
}

// p = e^(s - lse) in place of the scores, and dp = scale p (dp - delta) with delta = sum over keys of p dp, which is dot(out, dout).
template <class T>
void softmax_block_backward(const Block& block, const T* lse, T scale, T* scores, T* dp) {
  const int64_t width = block.width();
  if (block.along_queries) {
    vectorize<T>([=] {
      for (int64_t i0 = 0; i0 < width; i0 += lanes) {
        Lanes<T> shift{}, delta{};
        const int64_t n = std::min(lanes, block.queries - i0);
        for (int64_t l = 0; l < n; l++) shift[l] = std::isinf(lse[i0 + l]) ? 0 : lse[i0 + l];
        for (int64_t j = 0; j < block.keys; j++) {
          const Lanes<T> p = exp_lanes<T>(load(scores + j * width + i0) - shift);
          store(scores + j * width + i0, p);
          delta += p * load(dp + j * width + i0);
        }
        for (int64_t j = 0; j < block.keys; j++) {
          const int64_t at = j * width + i0;
          store(dp + at, scale * load(scores + at) * (load(dp + at) - delta));
        }
      }
    });
  } else {
    vectorize<T>([=] {
      for (int64_t i = 0; i < block.queries; i++) {
        T *s = scores + i * width, *d = dp + i * width;
        std::fill(s + block.keys, s + width, -std::numeric_limits<T>::infinity());
        const T shift = std::isinf(lse[i]) ? 0 : lse[i];
        Lanes<T> sums{};
        for (int64_t j = 0; j < width; j += lanes) {
          const Lanes<T> p = exp_lanes<T>(load(s + j) - shift);
          store(s + j, p);
          sums += p * load(d + j);
        }
        const T delta = across_sum<T>(sums);
        for (int64_t j = 0; j < width; j += lanes) store(d + j, scale * load(s + j) * (load(d + j) - delta));
      }
    });
  }
}

// Zeroes heads [h0, h0 + heads) of n rows.
template <class T>
void zero_rows(T* x, int64_t n, int64_t stride, int64_t count) {
  if (!x) return;
  for (int64_t i = 0; i < n; i++) std::fill(x + i * stride, x + i * stride + count, T(0));
}

// Rows before the first and behind the last offset belong to no item.
template <class T>
void zero_unowned(T* x, const std::vector<int32_t>& offsets, int64_t total, int64_t stride) {
  if (!x || offsets.empty()) return;
  std::fill(x, x + offsets.front() * stride, T(0));
  std::fill(x + offsets.back() * stride, x + total * stride, T(0));
}

template <class T>
void forward_unit(const Attention<T>& a, int64_t b, int64_t key_head, T* out, T* lse) {
  const int64_t D = a.D, q_ld = a.H * D, k_ld = a.Hkv * D;
  const int64_t queries = a.queries(b), keys = a.keys(b), first_key = a.first_key(b);
  const T *k = a.k + first_key * k_ld + key_head * D, *v = a.v + first_key * k_ld + key_head * D;
  const int64_t tile = Attention<T>::tile(queries, keys);
  for (int64_t h = key_head * a.group(); h < (key_head + 1) * a.group(); h++) {
    for (int64_t i0 = 0; i0 < queries; i0 += tile) {
      const Block block = Attention<T>::block(std::min(tile, queries - i0), keys);
      T* packed = scratch<T>(ScratchSlot::kernel, D * block.width() + block.size());
      T* scores = packed + D * block.width();
      const int64_t row = a.first_query(b) + i0;
      const T* q = a.q + (a.shared ? i0 : row) * q_ld + h * D;
      dot_products(block, D, q, q_ld, k, k_ld, a.scale, packed, scores);
      if (a.mask || a.causal) hide(block, a.mask ? a.mask + first_key : nullptr, a.causal, i0 + keys - queries, scores);
      softmax_block(block, scores, lse + h * a.Tq + row);
      small_product(block.queries, D, keys, scores, block.query_stride(), block.key_stride(), v, k_ld, out + row * q_ld + h * D, q_ld,
                    false);
    }
  }
}

// dq is null, or has the rows of q; with shared queries it is a partial result to add to.
template <class T>
void backward_unit(const Attention<T>& a, int64_t b, int64_t key_head, const T* lse, const T* dout, T* dq, T* dk, T* dv) {
  const int64_t D = a.D, q_ld = a.H * D, k_ld = a.Hkv * D;
  const int64_t queries = a.queries(b), keys = a.keys(b), first_key = a.first_key(b);
  const int64_t at = first_key * k_ld + key_head * D;
  const T *k = a.k + at, *v = a.v + at;
  const int64_t tile = Attention<T>::tile(queries, keys);
  if (queries == 0) {
    zero_rows(dk ? dk + at : nullptr, keys, k_ld, D);
    zero_rows(dv ? dv + at : nullptr, keys, k_ld, D);
  }
  bool accumulate = false;
  for (int64_t h = key_head * a.group(); h < (key_head + 1) * a.group(); h++) {
    for (int64_t i0 = 0; i0 < queries; i0 += tile) {
      const Block block = Attention<T>::block(std::min(tile, queries - i0), keys);
      const int64_t qs = block.query_stride(), ks = block.key_stride(), n = block.queries;
      T* packed = scratch<T>(ScratchSlot::kernel, D * block.width() + 2 * block.size());
      T *p = packed + D * block.width(), *ds = p + block.size();
      const int64_t row = a.first_query(b) + i0, q_row = a.shared ? i0 : row;
      const T *q = a.q + q_row * q_ld + h * D, *d = dout + row * q_ld + h * D;
      dot_products(block, D, q, q_ld, k, k_ld, a.scale, packed, p);
      if (a.mask || a.causal) hide(block, a.mask ? a.mask + first_key : nullptr, a.causal, i0 + keys - queries, p);
      dot_products(block, D, d, q_ld, v, k_ld, T(1), packed, ds);
      softmax_block_backward(block, lse + h * a.Tq + row, a.scale, p, ds);
      if (dv) small_product(keys, D, n, p, ks, qs, d, q_ld, dv + at, k_ld, accumulate);
      if (dk) small_product(keys, D, n, ds, ks, qs, q, q_ld, dk + at, k_ld, accumulate);
      if (dq) small_product(n, D, keys, ds, qs, ks, k, k_ld, dq + q_row * q_ld + h * D, q_ld, a.shared);
      accumulate = true;
    }
  }
}

}  // namespace

void cross_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets, const Tensor& q_offsets,
                             const Tensor& mask, Tensor& out, Tensor& lse, bool causal, double scale) {
  dispatch_float(q.dtype, [&]<class T>() {
    const Attention<T> a(q, k, v, offsets, q_offsets, mask, out, causal, scale);
    T *po = out.data<T>(), *pl = lse.data<T>();
    zero_unowned(po, a.query_offsets, a.Tq, a.H * a.D);
    if (!a.query_offsets.empty())
      for (int64_t h = 0; h < a.H; h++) {
        std::fill(pl + h * a.Tq, pl + h * a.Tq + a.query_offsets.front(), -std::numeric_limits<T>::infinity());
        std::fill(pl + h * a.Tq + a.query_offsets.back(), pl + (h + 1) * a.Tq, -std::numeric_limits<T>::infinity());
      }
    parallel_for(a.units(), a.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; unit++) forward_unit(a, unit / a.Hkv, unit % a.Hkv, po, pl);
    });
  });
}

void cross_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets, const Tensor& q_offsets,
                              const Tensor& mask, const Tensor& out, const Tensor& lse, const Tensor& dout, Tensor& dq, Tensor& dk,
                              Tensor& dv, bool causal, double scale) {
  dispatch_float(q.dtype, [&]<class T>() {
    const Attention<T> a(q, k, v, offsets, q_offsets, mask, out, causal, scale);
    const T *pl = lse.data<T>(), *pd = dout.data<T>();
    T *pdq = dq.data<T>(), *pdk = dk.data<T>(), *pdv = dv.data<T>();
    zero_unowned(pdq, a.query_offsets, a.Tq, a.H * a.D);
    zero_unowned(pdk, a.key_offsets, a.Tk, a.Hkv * a.D);
    zero_unowned(pdv, a.key_offsets, a.Tk, a.Hkv * a.D);
    const int64_t chunks = chunk_count(a.units(), a.grain()), shared_size = a.shared && pdq ? q.size() : 0;
    std::vector<T> partial(size_t(chunks * shared_size));
    parallel_for(a.units(), a.grain(), [&](int64_t begin, int64_t end) {
      T* unit_dq = shared_size ? partial.data() + begin / a.grain() * shared_size : pdq;
      for (int64_t unit = begin; unit < end; unit++) backward_unit(a, unit / a.Hkv, unit % a.Hkv, pl, pd, unit_dq, pdk, pdv);
    });
    for (int64_t i = 0; i < shared_size; i++) {
      T sum = 0;
      for (int64_t c = 0; c < chunks; c++) sum += partial[size_t(c * shared_size + i)];
      pdq[i] = sum;
    }
  });
}

}  // namespace galago::cpu
