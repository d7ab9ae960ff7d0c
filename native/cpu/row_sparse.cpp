/*
Optimizers on the touched rows of a table. The row-sparse gradient is reduced once: lookups sorted by (row, position), summed in
that order, so that duplicates and threads change no bit. Time and memory follow the lookups, never the table.
*/
#include <cmath>
#include <vector>

#include "prefetch.h"
#include "row_sums.h"

namespace galago::cpu {

void row_sparse_reduce(const TensorList& indices, const TensorList& values, const TensorList& sources, const TensorList& weights,
                       Tensor& rows, Tensor& sums, Tensor& count, int64_t num_rows) {
  const size_t pieces = indices.size();
  CHECK(values.size() == pieces && sources.size() == pieces && weights.size() == pieces, "row_sparse_reduce: lists differ in length");
  const int64_t D = sums.shape[1];
  int64_t total = 0;
  for (const Tensor& x : indices) total += x.size();

  dispatch_float(sums.dtype, [&]<class T>() {
    std::vector<int32_t> row(static_cast<size_t>(total));
    std::vector<RowTerm<T>> terms(static_cast<size_t>(total));
    size_t at = 0;
    for (size_t p = 0; p < pieces; p++) {
      const int32_t *index = indices[p].data<int32_t>(), *source = sources[p].size() ? sources[p].data<int32_t>() : nullptr;
      const T *value = values[p].data<T>(), *weight = weights[p].size() ? weights[p].data<T>() : nullptr;
      for (int64_t i = 0; i < indices[p].size(); i++, at++) {
        const int64_t from = source ? source[i] : i;
        row[at] = from < 0 ? -1 : index[i];
        terms[at] = {value + from * D, weight ? weight[i] : T(1)};
      }
    }
    const SortedRows sorted = sort_rows(total, num_rows, [&](int64_t i) { return int64_t(row[size_t(i)]); });
    int32_t* touched = rows.data<int32_t>();
    T* to = sums.data<T>();
    for (int64_t run = 0; run < sorted.runs(); run++) touched[run] = int32_t(sorted.row(run));
    for (int64_t run = sorted.runs(); run < rows.size(); run++) touched[run] = -1;
    *count.data<int32_t>() = int32_t(sorted.runs());
    sum_runs<T>(
        sorted, D, [&](int64_t i) { return terms[size_t(i)]; }, [&](int64_t run) { return to + run * D; });
  });
}

namespace {

// Calls update(row, gradient) for each touched row of param, m (if given) and v (one value or D per row), with its reduced gradient.
template <class T, class Update>
void for_touched_rows(const Tensor& rows, const Tensor& sums, const Tensor& count, const T* param, const T* m, const T* v,
                      int64_t v_columns, const Update& update) {
  const int64_t D = sums.shape[1];
  const int32_t* touched = rows.data<int32_t>();
  const T* gradient = sums.data<T>();
  parallel_for(*count.data<int32_t>(), row_grain(4 * D), [&](int64_t first, int64_t last) {
    vectorize<T>([&] {
      for (int64_t i = first; i < last; i++) {
        if (i + prefetch_distance < last) {
          const int64_t later = touched[i + prefetch_distance] * D;
          prefetch_row(param + later, D * int64_t(sizeof(T)));
          if (m) prefetch_row(m + later, D * int64_t(sizeof(T)));
          __builtin_prefetch(v + later / D * v_columns);
          if (v_columns > 1) prefetch_row(v + later, D * int64_t(sizeof(T)));
        }
        update(int64_t(touched[i]), gradient + i * D);
      }
    });
  });
}

// Mean of squares of the clipped gradient of a row.
template <class T>
GALAGO_INLINE T mean_square(const T* gradient, T clip, int64_t D) {
  return lane_sum<T>(D, [=](int64_t d) GALAGO_INLINE_BODY { return (clip * gradient[d]) * (clip * gradient[d]); }) / T(D);
}

}  // namespace

void rowwise_adagrad(Tensor& table, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
                     const Tensor& clip, double learning_rate, double weight_decay, double eps) {
  const double factor = *clip.data<double>();
  if (!std::isfinite(factor)) return;
  ++*step.data<int32_t>();
  const int64_t D = table.shape[1];
  dispatch_float(table.dtype, [&]<class T>() {
    T *param = table.data<T>(), *pv = v.data<T>();
    const T scale = T(factor), rate = T(learning_rate), keep = T(1 - learning_rate * weight_decay), e = T(eps);
    for_touched_rows<T>(rows, sums, count, param, nullptr, pv, 1, [=](int64_t row, const T* gradient) GALAGO_INLINE_BODY {
      const T second_moment = pv[row] + mean_square(gradient, scale, D);
      pv[row] = second_moment;
      const T step_size = rate * scale / (std::sqrt(second_moment) + e);
      for (int64_t d = 0; d < D; d++) param[row * D + d] = keep * param[row * D + d] - step_size * gradient[d];
    });
  });
}

void rowwise_adam(Tensor& table, Tensor& m, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
                  const Tensor& clip, double learning_rate, double weight_decay, double beta1, double beta2, double eps) {
  const double factor = *clip.data<double>();
  if (!std::isfinite(factor)) return;
  const double t = double(++*step.data<int32_t>());
  const int64_t D = table.shape[1];
  dispatch_float(table.dtype, [&]<class T>() {
    T *param = table.data<T>(), *pm = m.data<T>(), *pv = v.data<T>();
    const T scale = T(factor), keep = T(1 - learning_rate * weight_decay), e = T(eps);
    const T b1 = T(beta1), rest1 = T(1 - beta1), b2 = T(beta2), rest2 = T(1 - beta2);
    const T rate = T(learning_rate / (1 - std::pow(beta1, t))), root = T(1 / std::sqrt(1 - std::pow(beta2, t)));
    for_touched_rows<T>(rows, sums, count, param, pm, pv, 1, [=](int64_t row, const T* gradient) GALAGO_INLINE_BODY {
      const T second_moment = b2 * pv[row] + rest2 * mean_square(gradient, scale, D);
      pv[row] = second_moment;
      const T step_size = rate / (std::sqrt(second_moment) * root + e);
      for (int64_t d = 0; d < D; d++) {
        const T first_moment = b1 * pm[row * D + d] + rest1 * (scale * gradient[d]);
        pm[row * D + d] = first_moment;
        param[row * D + d] = keep * param[row * D + d] - step_size * first_moment;
      }
    });
  });
}

void lazy_adam(Tensor& table, Tensor& m, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
               const Tensor& clip, double learning_rate, double beta1, double beta2, double eps) {
  const double factor = *clip.data<double>();
  if (!std::isfinite(factor)) return;
  const double t = double(++*step.data<int32_t>());
  const int64_t D = table.shape[1];
  dispatch_float(table.dtype, [&]<class T>() {
    T *param = table.data<T>(), *pm = m.data<T>(), *pv = v.data<T>();
    const T scale = T(factor), e = T(eps), b1 = T(beta1), rest1 = T(1 - beta1), b2 = T(beta2), rest2 = T(1 - beta2);
    // eps is added to the uncorrected root, as SparseAdam of PyTorch does
    const T step_size = T(learning_rate * std::sqrt(1 - std::pow(beta2, t)) / (1 - std::pow(beta1, t)));
    for_touched_rows<T>(rows, sums, count, param, pm, pv, D, [=](int64_t row, const T* gradient) GALAGO_INLINE_BODY {
      for (int64_t d = 0; d < D; d++) {
        const T g = scale * gradient[d];
        const T first_moment = b1 * pm[row * D + d] + rest1 * g;
        const T second_moment = b2 * pv[row * D + d] + rest2 * g * g;
        pm[row * D + d] = first_moment;
        pv[row * D + d] = second_moment;
        param[row * D + d] -= step_size * first_moment / (std::sqrt(second_moment) + e);
      }
    });
  });
}

}  // namespace galago::cpu
