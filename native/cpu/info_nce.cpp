/*
InfoNCE: loss_i = log(1 + n_i), n_i = sum over the negatives j of row i of e^(s_ij - s_ipos), s_ij = scale q_i.k_j - log_q_j.

The negatives' log-sum L_i is kept apart from the positive's score, so loss_i = softplus(L_i - s_ipos) and the gradient at the
positive, -sigmoid(L_i - s_ipos), keep their digits where p_ipos is nearly 1. Scores exist for one panel of rows at a time: the
matrix product fills it, every row (and, if symmetric, every column) is reduced with a running maximum, backward computes it
again and turns it into the gradient of the scores in place. Panels follow from the shapes, so bits do not depend on threads.
*/
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dispatch.h"
#include "matmul.h"
#include "scratch.h"
#include "vector_math.h"

namespace galago::cpu {

namespace {

constexpr int64_t panel_elements = 1 << 18;  // 1 MB of float32: stays in the second-level cache
constexpr int64_t least_panel_rows = 16;
constexpr int64_t column_grain = 256;

template <class T>
constexpr T minus_infinity = -std::numeric_limits<T>::infinity();

// log(1 + e^x), 0 at minus infinity.
template <class T>
T softplus(T x) {
  return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
}

template <class T>
T sigmoid(T x) {
  return 1 / (1 + std::exp(-x));
}

// The entries of `index`, made safe to use: the first one outside [0, bound) becomes an index error of the forward pass.
std::vector<int32_t> checked_index(const char* argument, const Tensor& index, int64_t bound, bool report) {
  const int32_t* given = index.data<int32_t>();
  std::vector<int32_t> checked(size_t(index.size()));
  for (size_t i = 0; i < checked.size(); i++) {
    checked[i] = int32_t(std::clamp<int64_t>(given[i], 0, bound - 1));
    if (checked[i] != given[i] && report) {
      index_error("infoNce", argument, int64_t(i), given[i], bound);
      report = false;
    }
  }
  return checked;
}

template <class T>
struct Problem {
  int64_t N, M, D, G;  // G kinds of groups
  T scale;
  const T *q, *k, *weights, *log_q;
  const int32_t *row_groups, *col_groups;
  std::vector<int32_t> positives;  // empty: pos(i) = i

  Problem(const Tensor& q, const Tensor& k, const Tensor& positives, const Tensor& row_groups, const Tensor& col_groups,
          const Tensor& weights, const Tensor& log_q, double scale, bool report)
      : N(q.shape[0]),
        M(k.shape[0]),
        D(q.shape[1]),
        G(row_groups ? row_groups.size() / N : 0),
        scale(T(scale)),
        q(q.data<T>()),
        k(k.data<T>()),
        weights(weights.data<T>()),
        log_q(log_q.data<T>()),
        row_groups(row_groups.data<int32_t>()),
        col_groups(col_groups.data<int32_t>()) {
    if (positives) this->positives = checked_index("positives", positives, M, report);
  }

  int64_t positive(int64_t i) const { return positives.empty() ? i : positives[size_t(i)]; }
  T weight(int64_t i) const { return weights ? weights[i] : T(1); }
  T score(int64_t i, int64_t j) const {
    const T *a = q + i * D, *b = k + j * D;
    return scale * lane_sum<T>(D, [=](int64_t d) GALAGO_INLINE_BODY { return a[d] * b[d]; }) - (log_q ? log_q[j] : T(0));
  }

  double total_weight() const {
    double total = 0;
    for (int64_t i = 0; i < N; i++) total += weight(i);
    return total;
  }

  // Calls body(first, rows, scores) for panels of rows; scores (rows, M) hold scale q k^T.
  template <class Body>
  void for_panels(const Body& body) const {
    const int64_t most = std::min(N, std::max(least_panel_rows, panel_elements / M));
    T* scores = scratch<T>(ScratchSlot::kernel, most * M);
    for (int64_t first = 0; first < N; first += most) {
      const int64_t rows = std::min(most, N - first);
      matmul<T>(Transpose::no, Transpose::yes, rows, M, D, scale, q + first * D, D, k, D, T(0), scores, M);
      body(first, rows, scores);
    }
  }

  // Finishes row i of a panel: minus infinity at hidden columns and at the positive, whose score is returned. Inside vectorize().
  GALAGO_INLINE T mask_row(int64_t i, T* s) const {
    const T* bias = log_q;
    if (bias)
      for (int64_t j = 0; j < M; j++) s[j] -= bias[j];
    const int64_t pos = positive(i);
    const T positive_score = s[pos];
    for (int64_t g = 0; g < G; g++) {
      const int32_t group = row_groups[g * N + i];
      const int32_t* groups = col_groups + g * M;
      if (group < 0) continue;
      for (int64_t j = 0; j < M; j++) s[j] = groups[j] == group ? minus_infinity<T> : s[j];
    }
    s[pos] = minus_infinity<T>;
    return positive_score;
  }
};

// log sum_j e^s_j; minus infinity for none. Inside vectorize().
template <class T>
GALAGO_INLINE T log_sum(int64_t n, const T* s) {
  const T largest = lane_max<T>(n, minus_infinity<T>, [s](int64_t j) GALAGO_INLINE_BODY { return s[j]; });
  if (largest == minus_infinity<T>) return largest;
  return largest + std::log(lane_sum<T>(n, [s, largest](int64_t j) GALAGO_INLINE_BODY { return fast_exp(s[j] - largest); }));
}

// Running maximum and sum of every column; panels are added in order.
template <class T>
struct ColumnSums {
  std::vector<T> largest, sum;
  explicit ColumnSums(int64_t M) : largest(size_t(M), minus_infinity<T>), sum(size_t(M), T(0)) {}

  void add(int64_t rows, int64_t M, const T* scores) {
    parallel_for(M, column_grain, [&](int64_t begin, int64_t end) {
      vectorize<T>([&] {
        T *l = largest.data() + begin, *total = sum.data() + begin;
        T reference[column_grain];
        const int64_t n = end - begin;
        for (int64_t j = 0; j < n; j++) reference[j] = l[j];
        for (int64_t r = 0; r < rows; r++) {
          const T* s = scores + r * M + begin;
          for (int64_t j = 0; j < n; j++) reference[j] = s[j] > reference[j] ? s[j] : reference[j];
        }
        for (int64_t j = 0; j < n; j++) {
          const T before = l[j];
          l[j] = reference[j];
          if (reference[j] == minus_infinity<T>) reference[j] = 0;  // nothing visible yet: every term is e^-infinity
          total[j] *= fast_exp(before - reference[j]);
        }
        for (int64_t r = 0; r < rows; r++) {
          const T* s = scores + r * M + begin;
          for (int64_t j = 0; j < n; j++) total[j] += fast_exp(s[j] - reference[j]);
        }
      });
    });
  }

  void log_sums(T* out) const {
    for (size_t j = 0; j < sum.size(); j++) out[j] = largest[j] == minus_infinity<T> ? largest[j] : largest[j] + std::log(sum[j]);
  }
};

template <class T>
void dense_log_sums(const Problem<T>& p, T* positive_scores, T* row_log_sums, T* column_log_sums) {
  ColumnSums<T> columns(column_log_sums ? p.M : 0);
  p.for_panels([&](int64_t first, int64_t rows, T* scores) {
    parallel_for(rows, row_grain(p.M), [&](int64_t begin, int64_t end) {
      vectorize<T>([&] {
        for (int64_t r = begin; r < end; r++) {
          positive_scores[first + r] = p.mask_row(first + r, scores + r * p.M);
          row_log_sums[first + r] = log_sum(p.M, scores + r * p.M);
        }
      });
    });
    if (column_log_sums) columns.add(rows, p.M, scores);
  });
  if (column_log_sums) columns.log_sums(column_log_sums);
}

template <class T>
void sampled_log_sums(const Problem<T>& p, const std::vector<int32_t>& negatives, int64_t S, T* positive_scores, T* row_log_sums) {
  parallel_for(p.N, row_grain(S * p.D), [&](int64_t begin, int64_t end) {
    T* scores = scratch<T>(ScratchSlot::kernel, S);
    vectorize<T>([&] {
      for (int64_t i = begin; i < end; i++) {
        for (int64_t s = 0; s < S; s++) scores[s] = p.score(i, negatives[size_t(i * S + s)]);
        positive_scores[i] = p.score(i, p.positive(i));
        row_log_sums[i] = log_sum(S, scores);
      }
    });
  });
}

// What backward needs of every row (or column): its factor a_i = dloss w_i / W, the log-sum over all its scores, and the gradient
// at its positive, -a_i n_i / (1 + n_i).
template <class T>
struct RowTerms {
  std::vector<T> factor, log_sum, at_positive;
  RowTerms(int64_t n, const T* positive_scores, const T* negatives) : factor(size_t(n)), log_sum(size_t(n)), at_positive(size_t(n)) {
    for (size_t i = 0; i < size_t(n); i++) {
      const T difference = negatives[i] - positive_scores[i];
      log_sum[i] = positive_scores[i] + softplus(difference);
      at_positive[i] = -sigmoid(difference);
    }
  }
  void weigh(const Problem<T>& p, double dloss) {
    const double total = p.total_weight();
    for (size_t i = 0; i < factor.size(); i++) {
      factor[i] = total > 0 ? T(dloss * p.weight(int64_t(i)) / total) : T(0);
      at_positive[i] *= factor[i];
    }
  }
};

template <class T>
void dense_backward(const Problem<T>& p, const RowTerms<T>& rows_terms, const RowTerms<T>* columns_terms, T* dq, T* dk) {
  p.for_panels([&](int64_t first, int64_t rows, T* scores) {
    parallel_for(rows, row_grain(p.M), [&](int64_t begin, int64_t end) {
      vectorize<T>([&] {
        for (int64_t i = first + begin; i < first + end; i++) {
          T* s = scores + (i - first) * p.M;
          p.mask_row(i, s);
          const T factor = rows_terms.factor[size_t(i)], sum = rows_terms.log_sum[size_t(i)];
          T at_positive = rows_terms.at_positive[size_t(i)];
          if (columns_terms) {
            const T *column_factor = columns_terms->factor.data(), *column_sum = columns_terms->log_sum.data();
            for (int64_t j = 0; j < p.M; j++) s[j] = factor * fast_exp(s[j] - sum) + column_factor[j] * fast_exp(s[j] - column_sum[j]);
            at_positive += columns_terms->at_positive[size_t(i)];
          } else {
            for (int64_t j = 0; j < p.M; j++) s[j] = factor * fast_exp(s[j] - sum);
          }
          s[p.positive(i)] = at_positive;
        }
      });
    });
    if (dq) matmul<T>(Transpose::no, Transpose::no, rows, p.D, p.M, p.scale, scores, p.M, p.k, p.D, T(0), dq + first * p.D, p.D);
    if (dk)
      matmul<T>(Transpose::yes, Transpose::no, p.M, p.D, rows, p.scale, scores, p.M, p.q + first * p.D, p.D, first ? T(1) : T(0), dk, p.D);
  });
}

// out += factor x. Inside vectorize().
template <class T>
GALAGO_INLINE void add_scaled(int64_t n, T factor, const T* x, T* out) {
  for (int64_t d = 0; d < n; d++) out[d] += factor * x[d];
}

template <class T>
void sampled_backward(const Problem<T>& p, const std::vector<int32_t>& negatives, int64_t S, const RowTerms<T>& terms, T* dq, T* dk) {
  // Row i has S + 1 entries: its negatives, then its positive.
  const int64_t width = S + 1;
  const auto column = [&](int64_t entry) {
    const int64_t i = entry / width, s = entry % width;
    return s < S ? int64_t(negatives[size_t(i * S + s)]) : p.positive(i);
  };
  std::vector<T> gradient(size_t(p.N * width));
  parallel_for(p.N, row_grain(width * p.D), [&](int64_t begin, int64_t end) {
    vectorize<T>([&] {
      for (int64_t i = begin; i < end; i++) {
        T* g = gradient.data() + i * width;
        for (int64_t s = 0; s < S; s++)
          g[s] = p.scale * terms.factor[size_t(i)] * fast_exp(p.score(i, column(i * width + s)) - terms.log_sum[size_t(i)]);
        g[S] = p.scale * terms.at_positive[size_t(i)];
        if (!dq) continue;
        std::fill_n(dq + i * p.D, p.D, T(0));
        for (int64_t s = 0; s < width; s++) add_scaled(p.D, g[s], p.k + column(i * width + s) * p.D, dq + i * p.D);
      }
    });
  });
  if (!dk) return;
  // Entries by column, in order: every row of dk has one owner.
  std::vector<int64_t> offsets(size_t(p.M + 1), 0), entries(gradient.size());
  for (int64_t e = 0; e < p.N * width; e++) offsets[size_t(column(e) + 1)]++;
  for (size_t j = 1; j < offsets.size(); j++) offsets[j] += offsets[j - 1];
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  for (int64_t e = 0; e < p.N * width; e++) entries[size_t(next[size_t(column(e))]++)] = e;
  parallel_for(p.M, row_grain(p.D), [&](int64_t begin, int64_t end) {
    vectorize<T>([&] {
      for (int64_t j = begin; j < end; j++) {
        std::fill_n(dk + j * p.D, p.D, T(0));
        for (int64_t at = offsets[size_t(j)]; at < offsets[size_t(j + 1)]; at++) {
          const int64_t e = entries[size_t(at)];
          add_scaled(p.D, gradient[size_t(e)], p.q + e / width * p.D, dk + j * p.D);
        }
      }
    });
  });
}

}  // namespace

void info_nce_forward(const Tensor& q, const Tensor& k, const Tensor& positives, const Tensor& negatives, const Tensor& row_groups,
                      const Tensor& col_groups, const Tensor& weights, const Tensor& log_q, Tensor& loss, Tensor& positive_scores,
                      Tensor& row_log_sums, Tensor& column_log_sums, double scale, bool /*normalized*/) {
  dispatch_float(q.dtype, [&]<class T>() {
    T *scores = positive_scores.data<T>(), *row_sums = row_log_sums.data<T>(), *column_sums = column_log_sums.data<T>();
    if (q.shape[0] == 0) {
      *loss.data<T>() = 0;
      return;
    }
    const Problem<T> p(q, k, positives, row_groups, col_groups, weights, log_q, scale, true);
    if (negatives)
      sampled_log_sums(p, checked_index("negatives", negatives, p.M, true), negatives.shape[1], scores, row_sums);
    else
      dense_log_sums(p, scores, row_sums, column_sums);
    double sum = 0;
    for (int64_t i = 0; i < p.N; i++) {
      const T row = softplus(row_sums[i] - scores[i]);
      sum += double(p.weight(i)) * double(column_sums ? (row + softplus(column_sums[i] - scores[i])) / 2 : row);
    }
    const double total = p.total_weight();
    *loss.data<T>() = total > 0 ? T(sum / total) : T(0);
  });
}

void info_nce_backward(const Tensor& q, const Tensor& k, const Tensor& positives, const Tensor& negatives, const Tensor& row_groups,
                       const Tensor& col_groups, const Tensor& weights, const Tensor& log_q, const Tensor& positive_scores,
                       const Tensor& row_log_sums, const Tensor& column_log_sums, const Tensor& dloss, Tensor& dq, Tensor& dk,
                       double scale) {
  dispatch_float(q.dtype, [&]<class T>() {
    if (q.shape[0] == 0) {
      if (dk) std::fill_n(dk.data<T>(), dk.size(), T(0));
      return;
    }
    const Problem<T> p(q, k, positives, row_groups, col_groups, weights, log_q, scale, false);
    const T* scores = positive_scores.data<T>();
    const double factor = double(*dloss.data<T>()) * (column_log_sums ? 0.5 : 1);
    RowTerms<T> rows(p.N, scores, row_log_sums.data<T>());
    rows.weigh(p, factor);
    if (negatives) {
      sampled_backward(p, checked_index("negatives", negatives, p.M, false), negatives.shape[1], rows, dq.data<T>(), dk.data<T>());
    } else if (column_log_sums) {
      RowTerms<T> columns(p.N, scores, column_log_sums.data<T>());
      columns.weigh(p, factor);
      dense_backward(p, rows, &columns, dq.data<T>(), dk.data<T>());
    } else {
      dense_backward<T>(p, rows, nullptr, dq.data<T>(), dk.data<T>());
    }
  });
}

}  // namespace galago::cpu
