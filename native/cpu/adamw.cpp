// AdamW over many dense tensors, and the gradient norm that decides about clipping and skipping a step.
#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch.h"

namespace galago::cpu {

namespace {

// A piece of one tensor of a list. Pieces follow from the tensor alone, so the order of the list changes no bit.
struct Piece {
  size_t tensor;
  int64_t begin, end;
};

std::vector<Piece> pieces_of(const TensorList& list) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < list.size(); i++)
    for (int64_t begin = 0; begin < list[i].size(); begin += element_grain)
      pieces.push_back({i, begin, std::min(begin + element_grain, list[i].size())});
  return pieces;
}

// Pieces handed out at a time: small tensors together, so that a small model runs on one thread.
int64_t piece_grain(const std::vector<Piece>& pieces) {
  int64_t elements = 0;
  for (const Piece& piece : pieces) elements += piece.end - piece.begin;
  return elements <= element_grain ? int64_t(pieces.size()) : std::max<int64_t>(1, int64_t(pieces.size()) * element_grain / elements);
}

}  // namespace

void adamw(TensorList& params, const TensorList& grads, TensorList& m, TensorList& v, TensorList& steps, const Tensor& clip,
           double learning_rate, double weight_decay, double beta1, double beta2, double eps) {
  CHECK(params.size() == grads.size() && params.size() == m.size() && params.size() == v.size() && params.size() == steps.size(),
        "adamw: lists differ in length");
  const double factor = *clip.data<double>();
  if (!std::isfinite(factor)) return;
  for (Tensor& step : steps) ++*step.data<int32_t>();
  const std::vector<Piece> pieces = pieces_of(params);
  parallel_for(int64_t(pieces.size()), piece_grain(pieces), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; p++) {
      const auto [tensor, begin, end] = pieces[size_t(p)];
      const double step = double(*steps[tensor].data<int32_t>());
      dispatch_float(params[tensor].dtype, [&]<class T>() {
        const T* g = grads[tensor].data<T>();
        T *param = params[tensor].data<T>(), *pm = m[tensor].data<T>(), *pv = v[tensor].data<T>();
        const T scale = T(factor), keep = T(1 - learning_rate * weight_decay), b1 = T(beta1), b2 = T(beta2), e = T(eps);
        const T rest1 = T(1 - beta1), rest2 = T(1 - beta2);
        const T rate = T(learning_rate / (1 - std::pow(beta1, step)));
        const T root = T(1 / std::sqrt(1 - std::pow(beta2, step)));
        vectorize<T>([&] {
          for (int64_t i = begin; i < end; i++) {
            const T gradient = scale * g[i];
            const T first_moment = b1 * pm[i] + rest1 * gradient;
            const T second_moment = b2 * pv[i] + rest2 * gradient * gradient;
            pm[i] = first_moment;
            pv[i] = second_moment;
            param[i] = keep * param[i] - rate * first_moment / (std::sqrt(second_moment) * root + e);
          }
        });
      });
    }
  });
}

void gradient_norm(const TensorList& grads, const TensorList& rows, const TensorList& counts, Tensor& norm) {
  CHECK(rows.size() == counts.size(), "gradient_norm: lists differ in length");
  TensorList all = grads;
  for (size_t i = 0; i < rows.size(); i++) {  // only the first `count` rows hold anything
    all.push_back(rows[i]);
    all.back().shape[0] = *counts[i].data<int32_t>();
  }
  const std::vector<Piece> pieces = pieces_of(all);
  std::vector<double> partial(pieces.size());
  parallel_for(int64_t(pieces.size()), piece_grain(pieces), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; p++) {
      const auto [tensor, begin, end] = pieces[size_t(p)];
      dispatch_float(all[tensor].dtype, [&]<class T>() {
        const T* g = all[tensor].data<T>() + begin;
        const int64_t n = end - begin;
        vectorize<T>([&] {
          partial[size_t(p)] =
              lane_sum<double>(n, [=](int64_t i) GALAGO_INLINE_BODY { return static_cast<double>(g[i]) * static_cast<double>(g[i]); });
        });
      });
    }
  });
  bool finite = true;
  for (double x : partial) finite = finite && std::isfinite(x);
  // In ascending order the sum does not depend on the order of the parameters.
  if (finite) std::sort(partial.begin(), partial.end());
  double sum = 0;
  for (double x : partial) sum += x;
  *norm.data<double>() = std::sqrt(sum);
}

void clip_factor(const Tensor& norm, Tensor& factor, Tensor& skipped, double max_norm) {
  const double n = *norm.data<double>();
  const bool finite = std::isfinite(n);
  *factor.data<double>() = finite ? std::min(1.0, max_norm / (n + 1e-6)) : std::nan("");
  if (!finite) ++*skipped.data<int32_t>();
}

}  // namespace galago::cpu
